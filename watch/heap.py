"""The heap of a process that serves: while the garbage collector walks it, every caller waits."""

from __future__ import annotations

import gc

_THRESHOLDS = gc.get_threshold()
YOUNG_OBJECTS = 10_000
"""So many come before they are looked through. With Python's 700 the heap is walked every second or so."""


def settle() -> None:
    """Let what has been loaded stay: the collector walks what comes after it alone, and more rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS)


def unsettle() -> None:
    """Undo it at the end, or extension modules take what is left for leaks, and say so."""
    gc.unfreeze()
    gc.set_threshold(*_THRESHOLDS)
