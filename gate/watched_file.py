"""Files that are replaced while we run."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Signature = tuple[tuple[int, ...] | None, ...]

LOOK_EVERY_S = 1.0
RETRY_AFTER_S = 10.0


class WatchedFiles:
    """Says, at most once a second, whether files have changed. Whoever uses them asks."""

    def __init__(self, paths: Sequence[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = paths
        self._clock = clock
        self._looked_s = clock()
        self._signature = self._look()
        self._retry_s = math.inf
        self._are_unusable = False

    def changed(self) -> bool:
        """Whether they have changed since this was last said, or could not be used ten seconds ago."""
        now_s = self._clock()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return False
        self._looked_s = now_s
        signature = self._look()
        if signature != self._signature:
            self._signature, self._are_unusable = signature, False
        elif now_s < self._retry_s:
            return False
        self._retry_s = math.inf
        return True

    def retry(self) -> bool:
        """Note that they could not be used: for what they hold, or for want of a descriptor, for a moment.

        Returns whether that is news of what they are now.
        """
        self._retry_s = self._clock() + RETRY_AFTER_S
        is_news, self._are_unusable = not self._are_unusable, True
        return is_news

    def _look(self) -> Signature:
        return tuple(map(_signature, self._paths))


def _signature(path: Path) -> tuple[int, ...] | None:
    """What differs when a file was written or another one took its place; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
