"""In float32 it hardly matters what else is in the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from checked_device import SIZES, on_gpu, record
from questions import NEAR_TIE_FLOAT32, ask
from trial import GREEDY, QUESTIONS, Trial, company, judge_cache, judge_preemption, shuffled, together

from pagewire import Client

if TYPE_CHECKING:
    from on_gpu.conftest import Device

pytestmark = [*on_gpu, pytest.mark.check("G01")]

MIN_SHARE = 0.99
"""Of equal tokens in each way of asking, up to where answers part."""


def test_in_float32_answers_are_those_given_alone(device: Device) -> None:
    """Answers part only where two tokens are less than 0.01 apart, and hardly ever.

    Alone each prompt is computed whole; together they are cut into chunks, by what others leave of a step.
    """
    house = device.serve(*SIZES.precise)
    num_others = SIZES.precise_num_seqs - len(QUESTIONS)
    with Client(house.grpc_target, timeout=300) as client:
        alone = {question: ask(client, question, bypasses_cache=True) for question in QUESTIONS}
        trial = Trial(alone, NEAR_TIE_FLOAT32, MIN_SHARE)
        trial.judge("alone again", {each: ask(client, each, bypasses_cache=True) for each in QUESTIONS})
        with company(house, client, 1):
            trial.judge("batch of 2", {each: ask(client, each, bypasses_cache=True) for each in QUESTIONS})
        trial.judge(f"batch of {len(QUESTIONS)}, in chunks", together(client, shuffled(0)))
        trial.judge("without log probabilities", together(client, GREEDY, has_logprobs=False))
        judge_cache(trial, client)
        judge_preemption(trial, house, client, num_others)
    record("G01 float32", near_tie=trial.near_tie, min_share=trial.min_share, **trial.figures)
