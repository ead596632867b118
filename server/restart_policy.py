"""When to start a failed engine again, and when to give up."""

from __future__ import annotations

from collections import deque

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0
MAX_FAILURES = 5
WINDOW_S = 300.0


class RestartPolicy:
    """Waits twice as long after each recent failure, and gives up after too many."""

    def __init__(self) -> None:
        self._failures_s: deque[float] = deque()

    def delay_after_failure(self, now_s: float) -> float | None:
        """Note a failure; return how long to wait before the next start, or None to give up."""
        self._failures_s.append(now_s)
        while self._failures_s[0] <= now_s - WINDOW_S:
            self._failures_s.popleft()
        num_recent = len(self._failures_s)
        if num_recent >= MAX_FAILURES:
            return None
        delay_s: float = FIRST_DELAY_S * 2 ** (num_recent - 1)
        return min(delay_s, LONGEST_DELAY_S)
