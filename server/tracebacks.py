"""Which tracebacks are worth a place in the log: a fault that every request meets would fill it."""

from __future__ import annotations

import time

PERIOD_S = 1.0


class Tracebacks:
    """Lets one traceback a second through for each type of error. The lines of the requests all stay."""

    def __init__(self) -> None:
        self._last_s: dict[type[BaseException], float] = {}
        self._num_left_out: dict[type[BaseException], int] = {}

    def take(self, fault: BaseException) -> int | None:
        """Return how many like this were left out since the last one; None where this one is, too."""
        kind, now_s = type(fault), time.monotonic()
        if now_s - self._last_s.get(kind, -PERIOD_S) < PERIOD_S:
            self._num_left_out[kind] = self._num_left_out.get(kind, 0) + 1
            return None
        self._last_s[kind] = now_s
        return self._num_left_out.pop(kind, 0)
