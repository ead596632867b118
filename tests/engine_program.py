"""An engine process with a fake runner: `python tests/engine_program.py --channel-fd N --config JSON`.

The real loop, scheduler and channel, without torch. `engine.model_path` of the config says how the
process behaves, by the words in its name: "fatal", "crash", "memory", and those that befall a step: "hang",
"spin", "raise". If it is a folder, a file `fault` in it brings such words at any time, and a file `hold`
keeps the model from being loaded while it is there.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
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
SECRET = "secret-hf_abc at /etc/passwd, 0x7f0012345678"


class _Runner(FakeRunner):
    """Takes a moment for each step, or for ever."""

    def __init__(self, config: EngineConfig) -> None:
        num_seqs = config.max_num_seqs or 8
        super().__init__(
            max_num_seqs=num_seqs,
            max_num_batched_tokens=max(32, num_seqs),
            max_model_len=4096,
            num_blocks=4096 * max(1, num_seqs // 8),
        )
        self._model_path = config.model_path

    def launch(self, plan: StepPlan) -> FakePendingStep:
        behaviour = behaviour_of(self._model_path)
        if "hang" in behaviour:
            threading.Event().wait()
        while "spin" in behaviour:
            pass
        if "raise" in behaviour:
            raise RuntimeError(SECRET)
        time.sleep(STEP_S)
        return super().launch(plan)


def behaviour_of(model_path: str) -> str:
    fault = Path(model_path, "fault")
    return Path(model_path).name + (fault.read_text() if fault.exists() else "")


def load(config: EngineConfig, on_progress: Callable[[str, int, int], None]) -> _Runner:
    """Behave as the config's model path says."""
    on_progress("loading", 1, 2)
    behaviour = behaviour_of(config.model_path)
    if "crash" in behaviour:
        os._exit(9)
    if "fatal" in behaviour:
        raise ModelLoadError("no weights here")
    if "memory" in behaviour:
        raise MemoryError(SECRET)
    while Path(config.model_path, "hold").exists():
        time.sleep(STEP_S)
    return _Runner(config)


if __name__ == "__main__":
    sys.exit(main(load=load))
