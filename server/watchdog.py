"""Whether an engine that seems to load or to run is stuck, judged by the frames that it sends.

Time is counted in ticks of the loop that asks: if it is that loop which was stopped, this is one tick.
"""

from __future__ import annotations

TICK_S = 0.25
# A healthy engine sends a frame each second. A pause of two seconds is nobody's fault on a busy machine.
SILENCE_TIMEOUT_S = 3.5
# So does one that loads, however long it takes; but compilers and libraries may keep all its threads waiting.
LOADING_SILENCE_TIMEOUT_S = 120.0
# A step on a CPU may compute thousands of prompt tokens of a large model.
STEP_TIMEOUT_S = 120.0


class Watchdog:
    """Watches one engine process."""

    def __init__(self, step_timeout_s: float = STEP_TIMEOUT_S) -> None:
        """`step_timeout_s`: a step that computes for longer is taken for stuck."""
        self._step_timeout_s = step_timeout_s
        self._num_silent_ticks = 0
        self._num_step_ticks = 0

    def hear(self) -> None:
        """Note a frame: the process is alive."""
        self._num_silent_ticks = 0

    def see_progress(self) -> None:
        """Note that a step has ended."""
        self._num_step_ticks = 0

    def tick(self, *, has_work: bool, is_loading: bool = False) -> str | None:
        """Count a tick. Return why the engine is stuck; None if it is not."""
        self._num_silent_ticks += 1
        self._num_step_ticks = self._num_step_ticks + 1 if has_work else 0
        silence_timeout_s = LOADING_SILENCE_TIMEOUT_S if is_loading else SILENCE_TIMEOUT_S
        if self._num_silent_ticks * TICK_S > silence_timeout_s:
            return "no heartbeat"
        if self._num_step_ticks * TICK_S > self._step_timeout_s:
            return "a step does not end"
        return None
