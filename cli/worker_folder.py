"""The folder by which the processes of a translator find each other."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = "pagewire-translator-"


@contextmanager
def worker_folder() -> Iterator[tuple[str, int]]:
    """Make a folder that nobody else may look into; yield its path and the descriptor of its lock.

    It is removed in the end. Where this process is killed, the next start removes it, once no process has the
    descriptor any more: all that use the folder are to inherit it.
    """
    _remove_left()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder, _opened(folder) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder, lock


def _remove_left() -> None:
    """Remove the folders of this user that nobody locks. An empty one may be about to be locked."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError), _opened(folder) as lock:
            if os.fstat(lock).st_uid == os.geteuid():
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.listdir(lock):
                    shutil.rmtree(folder)


@contextmanager
def _opened(folder: str | Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
