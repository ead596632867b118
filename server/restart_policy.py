"""When to start a failed engine again, and when to give up."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartLimits:
    """How patient a server is with its engine."""

    first_delay_s: float = 1.0
    longest_delay_s: float = 30.0
    max_failures: int = 5
    """Within the window. The last of them is one too many."""
    window_s: float = 300.0


class RestartPolicy:
    """Waits twice as long after each recent failure, and gives up after too many."""

    def __init__(self, limits: RestartLimits) -> None:
        self._limits = limits
        self._failures_s: deque[float] = deque()

    def delay_after_failure(self, now_s: float) -> float | None:
        """Note a failure; return how long to wait before the next start, or None to give up."""
        limits = self._limits
        self._failures_s.append(now_s)
        while self._failures_s[0] <= now_s - limits.window_s:
            self._failures_s.popleft()
        num_recent = len(self._failures_s)
        if num_recent >= limits.max_failures:
            return None
        delay_s: float = limits.first_delay_s * 2 ** (num_recent - 1)
        return min(delay_s, limits.longest_delay_s)
