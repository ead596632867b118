"""What a question is answered with does not depend on what else is in the batch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from checked_device import SIZES, on_gpu, record
from questions import ask, misdraws
from trial import (
    DRAWN,
    GREEDY,
    QUESTIONS,
    SEEDS,
    Trial,
    company,
    judge_cache,
    judge_preemption,
    shuffled,
    together,
)

from pagewire import Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from on_gpu.conftest import Device
    from processes import House

pytestmark = [*on_gpu, pytest.mark.check("G01")]


def test_answers_are_those_given_alone(
    device: Device, serve_tight: Callable[[], House], keys: list[str]
) -> None:
    """Alone, in batches from 2 to the largest, in any order, from the cache, in chunks, after preemption.

    Two things are proven for each way, and neither counts what only follows from an earlier difference:

    - The random stream is that of (seed, position). Each drawn token is drawn again here, from the log
      probabilities reported beside it and the number that `kernels.uniform` has for seed and position:
      none is another one. A number that lies within 0.001 of the border of two tokens' shares proves nothing,
      as rounding may put it on either side; such are counted.
    - A greedy answer parts from the one given alone only at a near tie of the two tokens, as reported beside
      them. Batches of other sizes add in another order, which moves logits by some rounding steps. Where one
      comes without log probabilities, as the fastest way has it, those of the other one decide.

    Before it parts, all of an answer's tokens that are no near tie are equal. What share is equal of all is
    recorded, and no bound is set: it tells more of the weights than of the engine. Logits of dummy weights
    are flat: of 354 positions of the published shape 5 % were ties, and 16 % within a step of bfloat16.
    `test_precise_invariance.py` sets the bound, in float32.
    """
    house = device.serve()
    with Client(house.grpc_target, timeout=300) as client:
        alone = {question: ask(client, question, bypasses_cache=True) for question in QUESTIONS}
        trial = Trial(alone)
        trial.judge("alone", alone)
        for question in DRAWN:
            other = replace(question, seed=SEEDS[0] + 1)
            assert misdraws(other, alone[question])[0] > 0, "another stream would not be seen"
        trial.judge("alone again", {each: ask(client, each, bypasses_cache=True) for each in QUESTIONS})
        with company(house, client, 1):
            trial.judge("batch of 2", {each: ask(client, each, bypasses_cache=True) for each in QUESTIONS})
        for num_seqs in sorted({len(QUESTIONS), SIZES.max_num_seqs // 4, SIZES.max_num_seqs}):
            with company(house, client, max(0, num_seqs - len(QUESTIONS))):
                trial.judge(f"batch of {num_seqs}", together(client, shuffled(num_seqs)))
        trial.judge("without log probabilities", together(client, GREEDY, has_logprobs=False))
        judge_cache(trial, client)
    tight = serve_tight()
    with Client(tight.grpc_target, timeout=300, api_key=keys[0]) as client:
        trial.judge("alone, in chunks", {each: ask(client, each, bypasses_cache=True) for each in QUESTIONS})
        trial.judge("together, in chunks", together(client, shuffled(1)))
        stats = tight.stats().engine
        num_blocks = stats.num_free_blocks + stats.num_owned_blocks + stats.num_cached_blocks
        judge_preemption(trial, tight, client, min(num_blocks // 2, SIZES.max_num_seqs // 2))
    record("G01", near_tie=trial.near_tie, **trial.figures)
