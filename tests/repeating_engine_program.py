"""An engine process that says a prompt's last token for ever: `python tests/repeating_engine_program.py ...`.

As `engine_program.py`, but a token costs next to nothing, however long its sequence and however many run.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import msgspec
from fake_runner import FakeRunner

from engine.__main__ import main
from engine.step import SampledToken

if TYPE_CHECKING:
    from collections.abc import Callable

    from fake_runner import FakePendingStep

    from engine.config import EngineConfig
    from engine.step import StepPlan

STEP_S = 0.05
BLOCK_SIZE = 64
MAX_MODEL_LEN = 8192
VOCAB_SIZE = 1024


class _Runner(FakeRunner):
    def __init__(self, num_seqs: int) -> None:
        super().__init__(
            num_blocks=num_seqs * MAX_MODEL_LEN // BLOCK_SIZE,
            block_size=BLOCK_SIZE,
            max_num_seqs=num_seqs,
            max_num_batched_tokens=num_seqs,
            max_model_len=MAX_MODEL_LEN,
        )
        self.info = msgspec.structs.replace(self.info, vocab_size=VOCAB_SIZE)

    def launch(self, plan: StepPlan) -> FakePendingStep:
        time.sleep(STEP_S)
        return super().launch(plan)

    def _sample(self, index: int) -> SampledToken:
        token_ids = self._rows[index].token_ids
        token_ids.append(token_ids[-1])
        return SampledToken(index, token_ids[-1], None)


def load(config: EngineConfig, on_progress: Callable[[str, int, int], None]) -> _Runner:
    on_progress("loading", 1, 1)
    assert config.max_num_seqs is not None
    return _Runner(config.max_num_seqs)


if __name__ == "__main__":
    sys.exit(main(load=load))
