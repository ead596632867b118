"""Beam search against an engine whose model is a table, and against a search without beams."""

from __future__ import annotations

import asyncio
import itertools
import math
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import torch
from fakes import INFO
from hypothesis import given
from hypothesis import strategies as st
from tiny_model import VOCAB_SIZE, make_tiny_transformer

from engine.messages import EngineRequest, FinishReason, RequestOutput, SamplingParams, TokenLogprobs
from server.beam_search import LEAST_LOGPROB, Beam, BeamSearch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from server.engine import Outlet

VOCAB = 6
END, STOP = 5, 4
PROMPT = [1, 2]


def distribution(token_ids: list[int]) -> list[float]:
    """Log probabilities of the next token: any function of the whole text will do."""
    seed = 0
    for token_id in token_ids:
        seed = (seed * 31 + token_id + 7) % 1009
    logits = [math.sin(seed * (token_id + 1)) * 2 for token_id in range(VOCAB)]
    total = math.log(sum(map(math.exp, logits)))
    return [logit - total for logit in logits]


class TableEngine:
    """Generates one token of a sequence from a distribution."""

    info = INFO

    def __init__(
        self,
        fails_after: int = 10_000,
        distribution: Callable[[list[int]], list[float]] = distribution,
    ) -> None:
        self.requests: list[EngineRequest] = []
        self._fails_after = fails_after
        self._distribution = distribution

    def submit(self, request: EngineRequest, outlet: Outlet) -> None:
        self.requests.append(request)
        assert request.sampling.num_logprobs is not None
        top = self.top(request.prompt_token_ids, request.sampling.num_logprobs)
        token_id, logprob = top[0]
        outlet.put(RequestOutput(request.request_id, num_cached_tokens=3))
        failed = len(self.requests) > self._fails_after
        outlet.put(
            RequestOutput(
                request.request_id,
                token_ids=[token_id],
                logprobs=[TokenLogprobs(token_id, logprob, 1, top)],
                finish_reason=FinishReason.FAILED if failed else FinishReason.LENGTH,
                error="numerical_error" if failed else None,
            )
        )

    def top(self, token_ids: Sequence[int], count: int) -> list[tuple[int, float]]:
        """The most likely tokens after others."""
        logprobs = self._distribution(list(token_ids))
        best = sorted(range(len(logprobs)), key=lambda token_id: -logprobs[token_id])
        return [(token_id, logprobs[token_id]) for token_id in best[:count]]

    def abort(self, request_id: str) -> None:
        """Every sequence ends as it is submitted."""


async def search(
    engine: TableEngine, width: int, sampling: SamplingParams, length_penalty: float = 1.0, vocab: int = VOCAB
) -> list[tuple[int, RequestOutput]]:
    request = EngineRequest("r", PROMPT, sampling, priority=3, cache_salt="s")
    beams = BeamSearch(engine, request, width, length_penalty, vocab)  # type: ignore[arg-type] # in part
    return [output async for output in beams.outputs()]


def params(max_tokens: int, min_tokens: int = 0, num_logprobs: int | None = None) -> SamplingParams:
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        eos_token_ids=(END,),
        stop_token_ids=(STOP,),
        num_logprobs=num_logprobs,
    )


def all_continuations(max_tokens: int, min_tokens: int, length_penalty: float) -> list[tuple[int, ...]]:
    """Every continuation there is, best first."""
    scored = []
    for length in range(1, max_tokens + 1):
        for tokens in itertools.product(range(VOCAB), repeat=length):
            ends = tokens[-1] in (END, STOP)
            if any(token in (END, STOP) for token in tokens[:-1]) or (length < max_tokens and not ends):
                continue
            if ends and length - 1 < min_tokens:
                continue
            total = sum(distribution([*PROMPT, *tokens[:i]])[tokens[i]] for i in range(length))
            scored.append((total / max(length - ends, 1) ** length_penalty, tokens))
    return [tokens for _, tokens in sorted(scored, reverse=True)]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.5, -1.0])
@pytest.mark.parametrize("min_tokens", [0, 2])
async def test_a_search_as_wide_as_the_tree_finds_the_best_of_all(
    min_tokens: int, length_penalty: float
) -> None:
    width = 64  # 4 tokens that go on, to the power of 3
    outputs = await search(TableEngine(), width, params(4, min_tokens), length_penalty)
    found = [tuple(output.token_ids) for _, output in outputs[1:]]
    assert found == all_continuations(4, min_tokens, length_penalty)[:width]


async def test_a_width_of_one_is_greedy() -> None:
    (_, prompt), (_, found) = await search(TableEngine(), 1, params(5, min_tokens=5))
    tokens: list[int] = []
    for _ in range(5):
        logprobs = distribution([*PROMPT, *tokens])
        tokens.append(max(range(4), key=lambda token_id: logprobs[token_id]))
    assert found.token_ids == tokens
    assert (prompt.num_cached_tokens, prompt.finish_reason) == (3, None)
    assert (found.finish_reason, found.stop_token_id, found.logprobs) == (FinishReason.LENGTH, None, [])


async def test_ends_and_log_probabilities_are_reported() -> None:
    outputs = [output for _, output in (await search(TableEngine(), 8, params(4, num_logprobs=2)))[1:]]
    ends = {END: (FinishReason.STOP, None), STOP: (FinishReason.STOP, STOP)}
    for output in outputs:
        expected = ends.get(output.token_ids[-1], (FinishReason.LENGTH, None))
        assert (output.finish_reason, output.stop_token_id) == expected
        assert [one.token_id for one in output.logprobs] == output.token_ids
        for index, one in enumerate(output.logprobs):
            logprobs = distribution([*PROMPT, *output.token_ids[:index]])
            assert one.logprob == logprobs[one.token_id]
            assert one.rank == 1 + sum(other > one.logprob for other in logprobs)
            assert len(one.top) == 2
    assert {output.finish_reason for output in outputs} == {FinishReason.STOP, FinishReason.LENGTH}


async def test_steps_carry_what_the_request_asks_of_the_engine() -> None:
    engine = TableEngine()
    await search(engine, 3, params(3))
    assert {(one.priority, one.cache_salt) for one in engine.requests} == {(3, "s")}
    assert len({one.request_id for one in engine.requests}) == len(engine.requests) == 1 + 3 + 3
    assert all(one.sampling.max_tokens == 1 for one in engine.requests)


async def test_a_search_ends_when_nothing_can_become_better() -> None:
    engine = TableEngine()
    outputs = await search(engine, 2, params(500), length_penalty=0.0)
    assert len(engine.requests) < 100
    assert [tuple(output.token_ids) for _, output in outputs[1:]] == all_continuations(5, 0, 0.0)[:2]


async def test_a_failed_sequence_ends_the_search() -> None:
    outputs = await search(TableEngine(fails_after=2), 3, params(5))
    assert outputs[-1][1].error == "numerical_error"
    assert len(outputs) == 2


def plain_search(
    engine: TableEngine, width: int, sampling: SamplingParams, length_penalty: float
) -> list[list[TokenLogprobs]]:
    """Write out every candidate of every beam, and sort them all; never stop early."""
    ends = {*sampling.eos_token_ids, *sampling.stop_token_ids}

    def score(beam: list[TokenLogprobs]) -> float:
        length = len(beam) - (beam[-1].token_id in ends)
        total = 0.0
        for token in beam:
            total += max(token.logprob, LEAST_LOGPROB)
        return total / math.pow(max(length, 1), length_penalty)

    def best(beams: list[list[TokenLogprobs]]) -> list[list[TokenLogprobs]]:
        return sorted(beams, key=score, reverse=True)[:width]

    beams: list[list[TokenLogprobs]] = [[]]
    closed: list[list[TokenLogprobs]] = []
    for length in range(sampling.max_tokens):
        grown = []
        for beam in beams:
            top = engine.top([*PROMPT, *(token.token_id for token in beam)], width + max(width, len(ends)))
            for rank, (token_id, logprob) in enumerate(top, start=1):
                grown.append([*beam, TokenLogprobs(token_id, logprob, rank, top[: sampling.num_logprobs])])
        beams = best([beam for beam in grown if beam[-1].token_id not in ends])
        if length >= sampling.min_tokens:
            closed = best([*closed, *(beam for beam in grown if beam[-1].token_id in ends)])
    return best([*closed, *beams])


LOGPROBS = st.sampled_from([-0.5, -1.0, -math.inf]) | st.floats(-20, 0)


@given(
    tables=st.lists(st.lists(LOGPROBS, min_size=VOCAB, max_size=VOCAB), min_size=1, max_size=8),
    width=st.integers(1, 8),
    max_tokens=st.integers(2, 6),
    min_tokens=st.integers(0, 3),
    length_penalty=st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.5]),
)
def test_a_search_finds_what_a_plain_one_finds(
    tables: list[list[float]], width: int, max_tokens: int, min_tokens: int, length_penalty: float
) -> None:
    engine = TableEngine(distribution=lambda token_ids: tables[hash(tuple(token_ids)) % len(tables)])
    sampling = params(max_tokens, min_tokens, num_logprobs=1)
    outputs = asyncio.run(search(engine, width, sampling, length_penalty))
    found = [output.logprobs for _, output in outputs[1:]]
    assert found == plain_search(engine, width, sampling, length_penalty)


async def test_found_beams_come_in_pieces_and_let_others_have_their_turns() -> None:
    num_turns = 0

    async def take_turns() -> None:
        nonlocal num_turns
        while True:
            num_turns += 1
            await asyncio.sleep(0)

    engine = TableEngine(distribution=lambda _: [0.0, *[-1.0] * (VOCAB - 1)])
    request = EngineRequest("r", PROMPT, params(600, min_tokens=600, num_logprobs=1))
    beams = BeamSearch(engine, request, 2, 1.0, VOCAB)  # type: ignore[arg-type] # in part
    found: list[list[RequestOutput]] = [[], []]
    turns: list[int] = []
    task = asyncio.create_task(take_turns())
    async for index, output in beams.outputs():
        if output.token_ids:
            found[index].append(output)
            turns.append(num_turns)
    task.cancel()
    for outputs in found:
        assert [len(output.token_ids) for output in outputs] == [256, 256, 88]
        assert [len(output.logprobs) for output in outputs] == [256, 256, 88]
        assert [output.finish_reason for output in outputs] == [None, None, FinishReason.LENGTH]
    assert len(set(turns)) == len(turns)


async def test_few_candidates_become_beams(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Beam] = []

    def build(*values: object) -> Beam:
        built.append(Beam(*values))  # type: ignore[arg-type]
        return built[-1]

    monkeypatch.setattr("server.beam_search.Beam", build)
    width, vocab, max_tokens = 16, 64, 10
    engine = TableEngine(distribution=lambda _: [-1.0 - token_id for token_id in range(vocab)])
    await search(engine, width, params(max_tokens), vocab=vocab)
    assert len(built) <= 1 + max_tokens * 4 * width  # each step has 2 * width * width candidates


async def test_a_step_takes_no_more_memory_for_longer_beams() -> None:
    peaks: list[int] = []

    def flat(_: list[int]) -> list[float]:
        return [-1.0] * VOCAB

    class MeasuringEngine(TableEngine):
        def submit(self, request: EngineRequest, outlet: Outlet) -> None:
            if request.request_id.endswith(".0"):
                now, peak = tracemalloc.get_traced_memory()
                peaks.append(peak - now)
                self.requests.clear()
                tracemalloc.reset_peak()
            super().submit(request, outlet)

    tracemalloc.start()
    try:
        await search(MeasuringEngine(distribution=flat), 16, params(400, min_tokens=400))
    finally:
        tracemalloc.stop()
    assert max(peaks[200:]) < max(peaks[:50]) + 65_536


@pytest.mark.parametrize(("width", "max_tokens", "length_penalty"), [(3, 6, 1.0), (4, 4, 2.0)])
async def test_open_beams_are_those_of_transformers(
    width: int, max_tokens: int, length_penalty: float
) -> None:
    # Without an end: transformers drops ends that are not among the best `width` candidates of all beams.
    model = make_tiny_transformer("smollm2")

    def next_logprobs(token_ids: list[int]) -> list[float]:
        with torch.inference_mode():
            logits = model(torch.tensor([token_ids])).logits[0, -1]
        found: list[float] = logits.log_softmax(-1).tolist()
        return found

    prompt = [5, 6, 7, 8]
    beams = BeamSearch(
        TableEngine(distribution=next_logprobs),  # type: ignore[arg-type] # in part
        EngineRequest("r", prompt, SamplingParams(max_tokens=max_tokens)),
        width,
        length_penalty,
        VOCAB_SIZE,
    )
    found = [output.token_ids async for _, output in beams.outputs()][1:]
    expected = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        num_beams=width,
        num_return_sequences=width,
        do_sample=False,
        max_new_tokens=max_tokens,
        eos_token_id=-1,
        length_penalty=length_penalty,
        early_stopping="never",
    )
    assert found == expected[:, len(prompt) :].tolist()
