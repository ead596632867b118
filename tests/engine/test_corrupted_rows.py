"""A model that computes NaN for one sequence of a batch: it fails alone, and what it wrote is never read."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hand_plans import load_runner
from safetensors.torch import load_file, save_file
from tiny_model import make_tiny_model

from engine.messages import EngineRequest, FinishReason, RequestOutput, SamplingParams
from engine.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engine.messages import TokenLogprobs
    from engine.model_runner import ModelRunner

pytestmark = pytest.mark.check("R14")

POISON, SOUND = 250, 251
"""Tokens: nothing can be computed from the first one."""
BLOCK_SIZE, NUM_BLOCKS = 8, 24
Told = dict[str, list[RequestOutput]]


@pytest.fixture(params=[math.nan, math.inf], ids=["nan", "inf"])
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> ModelRunner:
    folder = make_tiny_model(tmp_path, "llama2")
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][POISON] = request.param
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return load_runner(folder, block_size=BLOCK_SIZE, num_blocks=NUM_BLOCKS)


def make_scheduler() -> Scheduler:
    return Scheduler(NUM_BLOCKS, BLOCK_SIZE, 8, 64, 512)


def make_request(name: str, prompt: list[int], max_tokens: int = 12, **sampling: float) -> EngineRequest:
    params = SamplingParams(max_tokens=max_tokens, num_logprobs=3, **{"temperature": 0.0, **sampling})  # type: ignore[arg-type]
    return EngineRequest(name, prompt, params)


def batch(third: int, max_tokens: int) -> list[EngineRequest]:
    """Five sequences, of which the last one holds a certain token in the middle of its prompt."""
    healthy = [
        make_request("a", [10 + position for position in range(20)]),
        make_request("b", [30 + position for position in range(7)], temperature=1.0, seed=4),
        make_request("c", [50], temperature=0.7, top_p=0.9),
        make_request("d", [60 + position for position in range(9)], repetition_penalty=1.3),
    ]
    odd = [90 + position for position in range(17)]
    odd[9] = third
    return [*healthy, make_request("odd", odd, max_tokens)]


def run(runner: ModelRunner, scheduler: Scheduler, requests: Sequence[EngineRequest]) -> Told:
    for request in requests:
        scheduler.add(request)
    told: Told = {request.request_id: [] for request in requests}
    while (plan := scheduler.schedule()) is not None:
        for output in scheduler.update(plan, runner.execute(plan)):
            told[output.request_id].append(output)
    return told


def values(outputs: Sequence[RequestOutput]) -> list[tuple[list[int], list[TokenLogprobs]]]:
    return [(output.token_ids, output.logprobs) for output in outputs]


def test_it_fails_alone_and_its_neighbours_are_bit_equal(runner: ModelRunner) -> None:
    """Beside it, and in the same steps as beside a sequence of the same shape that is sound."""
    scheduler = make_scheduler()
    expected = run(runner, scheduler, batch(SOUND, max_tokens=1))
    scheduler.reset_prefix_cache()
    told = run(runner, scheduler, batch(POISON, max_tokens=12))
    (failed,) = told["odd"]
    assert (failed.finish_reason, failed.error, failed.token_ids) == (
        FinishReason.FAILED,
        "numerical_error",
        [],
    )
    for name in "abcd":
        assert values(told[name]) == values(expected[name]), name
        assert len(told[name]) == 12
    stats = scheduler.stats()
    assert (stats.num_failed, stats.num_finished, stats.num_owned_blocks) == (1, 5 + 4, 0)


def test_what_it_wrote_is_not_found_by_its_prefix(runner: ModelRunner) -> None:
    scheduler = make_scheduler()
    for _ in range(2):
        told = run(runner, scheduler, [batch(POISON, 12)[-1]])
        assert told["odd"][-1].error == "numerical_error"
        assert scheduler.stats().num_prefix_hit_tokens == 0
        assert scheduler.stats().num_cached_blocks == 0


def test_its_blocks_serve_others_as_if_nothing_had_been_there(runner: ModelRunner) -> None:
    """Scenario: sequences that hold NaN have written to every block. Result: others get what they got."""
    scheduler = make_scheduler()
    before = run(runner, scheduler, batch(SOUND, max_tokens=1))
    scheduler.reset_prefix_cache()
    num_tokens = BLOCK_SIZE * NUM_BLOCKS // 4
    poisoned = [
        make_request(f"bad {index}", [POISON, *[100 + index] * (num_tokens - 2)], 1) for index in range(4)
    ]
    told = run(runner, scheduler, poisoned)
    assert all(outputs[-1].error == "numerical_error" for outputs in told.values())
    after = run(runner, scheduler, batch(SOUND, max_tokens=1))
    for name in ("a", "b", "c", "d", "odd"):
        assert values(after[name]) == values(before[name]), name
