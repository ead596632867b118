"""The engine process with the real runner, whose device fails once a file `fault` is in the model's folder.

The file is gone when it happens, so the next process serves.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from engine.__main__ import main
from engine.model_runner import ModelRunner

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.config import EngineConfig
    from engine.step import StepPlan


@triton.jit  # type: ignore[untyped-decorator]
def write_nowhere(pointer) -> None:  # type: ignore[no-untyped-def]
    """Writes where no memory is."""
    tl.store(pointer + (1 << 44), 1)


class _Runner:
    """A model runner but for the fault."""

    def __init__(self, runner: ModelRunner, folder: Path) -> None:
        self._runner = runner
        self._fault = folder / "fault"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def launch(self, plan: StepPlan) -> Any:
        if self._fault.exists():
            self._fault.unlink()
            break_device()
        return self._runner.launch(plan)


def break_device() -> None:
    """Launch a kernel that the device will complain of, some time later; a CPU complains at once."""
    if not torch.cuda.is_available():
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    write_nowhere[(1,)](torch.zeros(1, dtype=torch.int32, device="cuda"))


def load(config: EngineConfig, on_progress: Callable[[str, int, int], None]) -> Any:
    return _Runner(ModelRunner.load(config, on_progress), Path(config.model_path))


if __name__ == "__main__":
    sys.exit(main(load=load))
