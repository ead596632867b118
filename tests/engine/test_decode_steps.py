"""Steps from rows on the device, without a graph, so that any machine can run them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import pytest
from hand_plans import HandPlans, load_runner, make_device_resident
from tiny_model import VOCAB_SIZE, make_tiny_model

from engine.decode_steps import graph_sizes
from engine.messages import EngineRequest, SamplingParams
from engine.scheduler import Scheduler

if TYPE_CHECKING:
    from pathlib import Path

    from engine.model_runner import ModelRunner
    from engine.pending_step import PendingStep
    from engine.step import StepPlan

PROMPTS = [[(7 * i * i + 3 * length) % VOCAB_SIZE for i in range(length)] for length in (1, 8, 13, 37, 70)]
NUM_NEW_TOKENS = 12
GREEDY = SamplingParams(max_tokens=NUM_NEW_TOKENS, temperature=0.0)
DRAWN = SamplingParams(max_tokens=NUM_NEW_TOKENS, temperature=1.3, seed=-7)
FILTERED = SamplingParams(max_tokens=NUM_NEW_TOKENS, temperature=0.8, top_k=9, num_logprobs=1, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model"), "qwen3")


def load_device_resident(folder: Path) -> ModelRunner:
    runner = load_runner(folder)
    make_device_resident(runner)
    return runner


def generate(runner: ModelRunner, samplings: list[SamplingParams]) -> list[list[int]]:
    """Prefill in chunks beside decodes, one sequence more after some steps."""
    plans = HandPlans(runner)
    rows = [plans.admit(prompt, sampling=each) for prompt, each in zip(PROMPTS[:-1], samplings, strict=False)]
    ends = {row: len(plans.tokens[row]) + NUM_NEW_TOKENS for row in rows}
    num_steps = 0
    while unfinished := [row for row in rows if len(plans.tokens[row]) < ends[row]]:
        plans.step({row: min(17, plans.remaining(row)) for row in unfinished})
        num_steps += 1
        if num_steps == 6:
            rows.append(plans.admit(PROMPTS[-1], sampling=samplings[-1]))
            ends[rows[-1]] = len(PROMPTS[-1]) + NUM_NEW_TOKENS
    plans.finish()
    return [plans.tokens[row] for row in rows]


@pytest.mark.parametrize(
    "samplings",
    [
        [GREEDY] * 5,
        [DRAWN] * 5,
        [GREEDY, DRAWN, DRAWN, GREEDY, DRAWN],
        [GREEDY, FILTERED, DRAWN, DRAWN, GREEDY],
    ],
    ids=["greedy", "drawn", "plain", "mixed"],
)
def test_tokens_are_those_of_steps_from_the_host(folder: Path, samplings: list[SamplingParams]) -> None:
    resident = load_device_resident(folder)
    expected = generate(load_runner(folder), samplings)
    assert generate(resident, samplings) == expected
    assert generate(resident, samplings) == expected


def test_the_next_step_is_launched_before_the_last_is_collected(folder: Path) -> None:
    runner = load_device_resident(folder)
    scheduler = Scheduler(15, runner.info.block_size, 4, 40, runner.info.max_model_len)
    outputs: dict[str, list[int]] = {}
    for index, prompt in enumerate(PROMPTS * 2):
        outputs[str(index)] = []
        scheduler.add(EngineRequest(str(index), prompt, DRAWN if index % 2 else GREEDY))
    in_flight: deque[tuple[StepPlan, PendingStep]] = deque()
    while scheduler.has_requests or in_flight:
        plan = scheduler.schedule()
        if plan is not None:
            in_flight.append((plan, runner.launch(plan)))
        if plan is None or len(in_flight) == 2:
            launched, pending = in_flight.popleft()
            for output in scheduler.update(launched, pending.collect()):
                outputs[output.request_id] += output.token_ids
    solo = load_runner(folder)
    for index, prompt in enumerate(PROMPTS * 2):
        plans = HandPlans(solo)
        row = plans.admit(prompt, sampling=DRAWN if index % 2 else GREEDY)
        for _ in range(NUM_NEW_TOKENS):
            plans.step([row])
        plans.finish()
        assert outputs[str(index)] == plans.tokens[row][len(prompt) :]


@pytest.mark.parametrize(
    ("max_num_seqs", "expected"),
    [(1, [1]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (20, [1, 2, 4, 8, 16, 20])],
)
def test_ladder_of_sizes(max_num_seqs: int, expected: list[int]) -> None:
    assert graph_sizes(max_num_seqs) == expected


def test_the_ladder_ends() -> None:
    assert graph_sizes(1000)[-1] == graph_sizes(256)[-1] == 256
