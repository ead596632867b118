"""How long the engine's loop works. Waiting, for commands or for the device, is not work."""

from __future__ import annotations

import time


class StepClock:
    """Adds up the time between `resume` and `pause`. It costs a reading of the clock each."""

    def __init__(self) -> None:
        self._since_s = time.monotonic()
        self._worked_s = 0.0

    def resume(self) -> float:
        """The loop works from now on. Return when that is, in the seconds of `time.monotonic`."""
        self._since_s = time.monotonic()
        return self._since_s

    def pause(self) -> None:
        """The loop begins to wait."""
        now_s = time.monotonic()
        self._worked_s += now_s - self._since_s
        self._since_s = now_s

    def since_pause(self) -> float:
        """How long the loop has waited, in seconds."""
        return time.monotonic() - self._since_s

    def take(self) -> float:
        """Seconds of work since the last call."""
        self.pause()
        worked_s, self._worked_s = self._worked_s, 0.0
        return worked_s
