"""An engine process with a fake runner: `python tests/engine_program.py --channel-fd N --config JSON`.

The real loop, scheduler and channel, without torch. `engine.model_path` of the config says how the
process behaves: words of "slow-steps", "hang", "crash", "fatal".
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from fake_runner import FakeRunner

from engine.__main__ import main
from engine.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fake_runner import FakePendingStep

    from engine.config import EngineConfig
    from engine.step import StepPlan

STEP_S = 0.02


class _Runner(FakeRunner):
    """Takes a moment for each step, or for ever."""

    def __init__(self, behaviour: str) -> None:
        super().__init__(max_model_len=4096, num_blocks=4096)
        self._behaviour = behaviour

    def launch(self, plan: StepPlan) -> FakePendingStep:
        if "hang" in self._behaviour:
            threading.Event().wait()
        time.sleep(STEP_S)
        return super().launch(plan)


def load(config: EngineConfig, on_progress: Callable[[str, int, int], None]) -> _Runner:
    """Behave as the config's model path says."""
    on_progress("loading", 1, 2)
    if "crash" in config.model_path:
        os._exit(9)
    if "fatal" in config.model_path:
        raise ModelLoadError("no weights here")
    return _Runner(config.model_path)


if __name__ == "__main__":
    sys.exit(main(load=load))
