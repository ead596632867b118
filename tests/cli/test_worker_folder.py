"""What killed translators leave behind is removed at the next start, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from processes import wait_until

from cli.worker_folder import worker_folder

# The supervisor and one process of a translator, which ends with its input.
PROGRAM = """
import pathlib, subprocess, sys
from cli.worker_folder import worker_folder

with worker_folder() as (folder, lock):
    pathlib.Path(folder, "connections").touch()
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], pass_fds=[lock])
    print(folder, flush=True)
    child.wait()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def test_it_is_ours_alone_and_goes_in_the_end() -> None:
    with worker_folder() as (folder, _):
        assert Path(folder).stat().st_mode & 0o777 == 0o700
        Path(folder, "connections").touch()
    assert not Path(folder).exists()


def test_a_folder_goes_when_all_who_used_it_are_gone() -> None:
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())

        def is_left() -> bool:
            with worker_folder():
                return left.exists()

        assert is_left()
        process.kill()
        process.wait()
        assert is_left()  # its other process uses it still
    wait_until(lambda: not is_left(), "the folder is removed")


def test_folders_of_others_stay(temporary: Path) -> None:
    target = temporary / "pagewire-models"
    empty, link, file, theirs = (temporary / f"pagewire-translator-{number}" for number in range(4))
    target.mkdir()
    (target / "connections").touch()
    empty.mkdir()
    link.symlink_to(target)
    file.touch()
    if os.geteuid() == 0:
        theirs.mkdir()
        (theirs / "connections").touch()
        os.chown(theirs, 1, -1)
    before = sorted(temporary.rglob("*"))
    with worker_folder():
        pass
    assert sorted(temporary.rglob("*")) == before
