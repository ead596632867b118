"""How late an event loop is: what blocks it delays every request."""

from __future__ import annotations

import asyncio
import time

PERIOD_S = 0.1
WINDOW_S = 10.0
"""The worst delay is remembered for this long at least, and twice as long at most."""


class LoopLag:
    """Asks the running event loop again and again to come back, and notes how late it does."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worst_s = self._worst_before_s = 0.0
        self._window_ends_s = time.monotonic() + WINDOW_S
        self._due_s = 0.0
        self._wait()

    @property
    def seconds(self) -> float:
        """The worst delay of late. Any thread may ask, also while the loop is blocked."""
        overdue_s = time.monotonic() - self._due_s
        return max(0.0, self._worst_s, self._worst_before_s, overdue_s)

    def close(self) -> None:
        """Stop."""
        self._timer.cancel()

    def _wait(self) -> None:
        self._due_s = time.monotonic() + PERIOD_S
        self._timer = self._loop.call_later(PERIOD_S, self._note)

    def _note(self) -> None:
        now_s = time.monotonic()
        if now_s >= self._window_ends_s:
            self._worst_before_s, self._worst_s = self._worst_s, 0.0
            self._window_ends_s = now_s + WINDOW_S
        self._worst_s = max(self._worst_s, now_s - self._due_s)
        self._wait()
