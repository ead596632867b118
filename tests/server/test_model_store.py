from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.config import EngineConfig
from server.config import DEFAULT_MODEL, ServerConfig
from server.model_store import SMOLLM2, ModelStoreError, cache_folder, resolve_model


def resolve(model: str) -> Path:
    config = ServerConfig(model=model, engine=EngineConfig(model_path=""))
    return resolve_model(config, lambda *_: None)


def test_the_default_model_is_the_published_file(smollm2_path: Path) -> None:
    with smollm2_path.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == SMOLLM2.sha256
    assert resolve(DEFAULT_MODEL) == smollm2_path


def test_a_model_folder_and_a_gguf_file_are_taken_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.gguf").touch()
    assert resolve(str(tmp_path)) == tmp_path
    assert resolve(str(tmp_path / "model.gguf")) == tmp_path / "model.gguf"


def test_other_folders_and_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    (tmp_path / "model.bin").touch()
    with pytest.raises(ModelStoreError, match=r"no config\.json; to serve a GGUF file, name it: a\.gguf"):
        resolve(str(tmp_path))
    with pytest.raises(ModelStoreError, match=r"expected a folder or a \.gguf file"):
        resolve(str(tmp_path / "model.bin"))


@pytest.mark.parametrize("model", ["no-such-model", "./models/absent", "models/absent.gguf"])
def test_an_unknown_name_is_refused_with_all_that_was_tried(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelStoreError) as caught:
        resolve(model)
    for tried in (repr(model), DEFAULT_MODEL, ".gguf file", "Hugging Face id"):
        assert tried in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:1"}, "Connection refused"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
    ],
)
def test_a_hub_that_cannot_be_reached_is_named_as_the_cause(
    settings: dict[str, str], reason: str, tmp_path: Path
) -> None:
    code = (
        "from tests.server.test_model_store import ModelStoreError, resolve\n"
        "try: resolve('some-owner/some-model')\n"
        "except ModelStoreError as error: print(error)\n"
    )
    # The hub's client reads its settings when it is imported.
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), **settings}
    command = [sys.executable, "-c", code]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True)
    assert "'some-owner/some-model', and the Hugging Face Hub does not give it" in result.stdout
    assert reason in result.stdout


def test_a_model_in_the_hubs_cache_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "a" * 40
    folder = tmp_path / "hub" / "models--owner--name"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "trees").mkdir()
    (folder / "trees" / f"{commit}.json").write_text(json.dumps({}))
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "snapshots" / commit / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = ServerConfig(model="owner/name", cache_dir=tmp_path, engine=EngineConfig(model_path=""))
    assert resolve_model(config, lambda *_: None) == folder / "snapshots" / commit


def test_the_cache_is_where_the_user_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAGEWIRE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder(None) == Path("/home/someone/.cache/pagewire")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder(None) == Path("/xdg/pagewire")
    monkeypatch.setenv("PAGEWIRE_CACHE", "/own")
    assert cache_folder(None) == Path("/own")
    assert cache_folder(tmp_path) == tmp_path
