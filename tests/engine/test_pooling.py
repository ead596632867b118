"""Vectors of decoder models, beside generation and however the prompts are cut, against transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import transformers
from hand_plans import HandPlans, load_runner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_model import VOCAB_SIZE, make_tiny_model

from engine.messages import EngineRequest, FinishReason, Pooling, RequestOutput, SamplingParams
from engine.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.model_runner import ModelRunner

NUM_BLOCKS = 96
ONE = SamplingParams(max_tokens=1)


@dataclass
class Decoder:
    """One tiny model in both implementations."""

    runner: ModelRunner
    model: Any

    def expected(self, prompt: Sequence[int], pooling: Pooling) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            hidden = self.model(torch.tensor([list(prompt)])).last_hidden_state[0]
        vector = hidden[-1] if pooling is Pooling.LAST else hidden.mean(dim=0)
        return np.asarray(vector.numpy())


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder = make_tiny_model(tmp_path_factory.mktemp("decoder"), "qwen3")
    auto: Any = transformers.AutoModel
    torch.set_num_threads(1)
    return Decoder(load_runner(folder, num_blocks=NUM_BLOCKS), auto.from_pretrained(folder).eval())


def make_scheduler(runner: ModelRunner, *, budget: int = 256, num_blocks: int = NUM_BLOCKS) -> Scheduler:
    info = runner.info
    return Scheduler(num_blocks, info.block_size, runner.max_num_seqs, budget, info.max_model_len)


def pooled(name: str, prompt: Sequence[int], pooling: Pooling, **fields: Any) -> EngineRequest:
    return EngineRequest(name, list(prompt), ONE, pooling=pooling, **fields)


def run(scheduler: Scheduler, runner: ModelRunner) -> dict[str, list[RequestOutput]]:
    """Run all that was added to its end, and release the rows."""
    outputs: dict[str, list[RequestOutput]] = {}
    while scheduler.has_requests:
        plan = scheduler.schedule()
        assert plan is not None
        for output in scheduler.update(plan, runner.execute(plan)):
            outputs.setdefault(output.request_id, []).append(output)
    release_rows(scheduler, runner)
    return outputs


def release_rows(scheduler: Scheduler, runner: ModelRunner) -> None:
    """Another scheduler is to take over: let a last sequence carry the released rows."""
    plans = HandPlans(runner)
    for row in scheduler._running.released_rows:
        plans.release(row)
    plans.step({})
    scheduler._running.released_rows.clear()


def vector_of(outputs: Sequence[RequestOutput]) -> np.ndarray[Any, Any]:
    last = outputs[-1]
    assert last.finish_reason is FinishReason.STOP
    assert last.embedding is not None
    assert [output.num_cached_tokens is None for output in outputs].count(False) == 1
    assert not any(output.token_ids for output in outputs)
    return np.frombuffer(last.embedding, "<f4")


def prompt_of(length: int, seed: int) -> list[int]:
    return list(np.random.default_rng((length, seed)).integers(3, VOCAB_SIZE, length).tolist())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(
        st.tuples(st.integers(1, 60), st.integers(0, 2), st.sampled_from([Pooling.LAST, Pooling.MEAN, None])),
        min_size=1,
        max_size=6,
    ),
    budget=st.integers(1, 80),
    num_blocks=st.integers(9, 24),
)
def test_vectors_are_those_of_transformers(
    decoder: Decoder, sizes: list[tuple[int, int, Pooling | None]], budget: int, num_blocks: int
) -> None:
    """Chunks, cache hits (equal prompts), preemption and generation in the same steps change nothing."""
    scheduler = make_scheduler(decoder.runner, budget=budget, num_blocks=num_blocks)
    prompts = {}
    for index, (length, seed, pooling) in enumerate(sizes):
        name = f"{pooling}/{index}"
        prompts[name] = prompt_of(length, seed)
        generates = EngineRequest(name, prompts[name], SamplingParams(max_tokens=6, temperature=0.0))
        scheduler.add(generates if pooling is None else pooled(name, prompts[name], pooling))
    outputs = run(scheduler, decoder.runner)
    for index, (_, _, pooling) in enumerate(sizes):
        name = f"{pooling}/{index}"
        if pooling is None:
            assert sum(len(output.token_ids) for output in outputs[name]) == 6
        else:
            expected = decoder.expected(prompts[name], pooling)
            np.testing.assert_allclose(vector_of(outputs[name]), expected, rtol=1e-3, atol=1e-4)


def test_the_last_token_may_read_the_cache_and_the_mean_may_not(decoder: Decoder) -> None:
    scheduler = make_scheduler(decoder.runner)
    prompt = prompt_of(40, 0)
    hits = []
    for name, pooling in (("first", Pooling.MEAN), ("last", Pooling.LAST), ("mean", Pooling.MEAN)):
        scheduler.add(pooled(name, prompt, pooling))
        outputs = run(scheduler, decoder.runner)[name]
        hits.append(outputs[0].num_cached_tokens)
        np.testing.assert_allclose(
            vector_of(outputs), decoder.expected(prompt, pooling), rtol=1e-3, atol=1e-4
        )
    assert hits == [0, 32, 0]


def test_a_prompt_may_fill_the_whole_context(decoder: Decoder) -> None:
    max_model_len = decoder.runner.info.max_model_len
    scheduler = make_scheduler(decoder.runner)
    prompt = prompt_of(max_model_len, 0)
    scheduler.add(pooled("long", prompt, Pooling.MEAN))
    outputs = run(scheduler, decoder.runner)["long"]
    expected = decoder.expected(prompt, Pooling.MEAN)
    np.testing.assert_allclose(vector_of(outputs), expected, rtol=1e-3, atol=1e-4)


def test_a_pooled_sequence_leaves_at_once_when_aborted(decoder: Decoder) -> None:
    scheduler = make_scheduler(decoder.runner, budget=8)
    scheduler.add(pooled("gone", prompt_of(40, 0), Pooling.MEAN))
    plan = scheduler.schedule()
    assert plan is not None
    scheduler.update(plan, decoder.runner.execute(plan))
    aborted = scheduler.abort("gone")
    assert aborted is not None
    assert aborted.finish_reason is FinishReason.ABORTED
    assert scheduler.schedule() is None
    assert scheduler.stats().num_owned_blocks == 0
    release_rows(scheduler, decoder.runner)


def test_a_vector_that_is_not_finite_fails_its_sequence(tmp_path: Any) -> None:
    runner = load_runner(make_tiny_model(tmp_path, "qwen3"))
    model: Any = runner._steps._model
    model.model.norm.weight.data.fill_(float("nan"))
    scheduler = make_scheduler(runner)
    scheduler.add(pooled("bad", prompt_of(20, 0), Pooling.LAST))
    (output,) = run(scheduler, runner)["bad"]
    assert (output.finish_reason, output.error) == (FinishReason.FAILED, "numerical_error")
    assert output.embedding is None
    assert scheduler.stats().num_cached_blocks == 0


def test_the_runner_says_what_it_pools(decoder: Decoder) -> None:
    info = decoder.runner.info
    assert info.can_generate
    assert info.embedding_dimensions == 64
    assert info.poolings == (Pooling.LAST, Pooling.MEAN)
    assert info.normalizes_embeddings
