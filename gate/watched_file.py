"""Files that are replaced while we run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Signature = tuple[tuple[int, ...] | None, ...]

LOOK_EVERY_S = 1.0


class WatchedFiles:
    """Says, at most once a second, whether files have changed. Whoever uses them asks."""

    def __init__(
        self,
        paths: Sequence[Path],
        clock: Callable[[], float] = time.monotonic,
        every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._paths = paths
        self._clock = clock
        self._looked_s = clock()
        self._signature = self._look()

    def changed(self) -> bool:
        """Whether they have changed since this was last said."""
        if self._clock() - self._looked_s < LOOK_EVERY_S:
            return False
        self._looked_s = self._clock()
        signature = self._look()
        changed, self._signature = signature != self._signature, signature
        return changed

    def _look(self) -> Signature:
        return tuple(map(_signature, self._paths))


def _signature(path: Path) -> tuple[int, ...] | None:
    """What differs when a file was written or another one took its place; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
