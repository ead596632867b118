"""What is chosen from tables on the device, against the sampler that sees each row's whole history."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.batch import Batch
from engine.device_sampler import DeviceSampler
from engine.messages import SamplingParams, TokenLogprobs
from engine.pending_step import PendingStep
from engine.sampler import Sampler, sampling_row
from engine.step import Admission, Chunk, StepPlan

if TYPE_CHECKING:
    from collections.abc import Sequence

VOCAB = 40
NUM_ROWS = 5
MAX_LEN = 30

option_sets = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.7, 2.0]),
        "top_k": st.sampled_from([0, 1, 3, VOCAB]),
        "top_p": st.sampled_from([0.3, 0.9, 1.0]),
        "min_p": st.sampled_from([0.0, 0.2]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "presence_penalty": st.sampled_from([0.0, 1.5]),
        "frequency_penalty": st.sampled_from([0.0, -0.4]),
        "logit_bias": st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100, width=32), max_size=3),
        "allowed_token_ids": st.sampled_from([(), (1, 2, 3, 30, 39)]),
        "bad_words": st.sampled_from([(), ((3,), (30,)), ((2,), (1, 2))]),
        "min_tokens": st.sampled_from([0, 2]),
        "eos_token_ids": st.sampled_from([(), (1,)]),
        "stop_token_ids": st.sampled_from([(), (1, 39)]),
        "seed": st.integers(0, 2**63 - 1),
        "num_logprobs": st.sampled_from([None, 0, 3]),
        "logprob_token_ids": st.sampled_from([(), (5, 7)]),
    }
)
histories = st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=12)
masks = st.sampled_from([None, b"\xff" * 8, b"\x0e\x00\x00\x40\x80\x00\x00\x00"])
sequences = st.lists(st.tuples(option_sets, histories, masks), min_size=1, max_size=NUM_ROWS)


def make_admissions(drawn: Sequence[tuple[dict[str, object], list[int], object]]) -> tuple[Admission, ...]:
    """Of prompts of two tokens, and what was generated before."""
    return tuple(
        Admission(row, history, 2, SamplingParams(max_tokens=9, **options))  # type: ignore[arg-type]
        for row, (options, history, _) in enumerate(drawn)
    )


def make_chunks(batch: Batch, masks_of: Sequence[bytes | None]) -> list[Chunk]:
    lens = batch.num_tokens.tolist()
    return [Chunk(row, lens[row] - 1, 1, (), True, mask) for row, mask in enumerate(masks_of)]


def collect(step: PendingStep) -> tuple[list[int], list[TokenLogprobs | None]]:
    sampled = step.collect().sampled
    return [each.token_id for each in sampled], [each.logprobs for each in sampled]


def assert_same(actual: TokenLogprobs | None, expected: TokenLogprobs | None) -> None:
    if expected is None or actual is None:
        assert actual is expected
        return
    assert (actual.token_id, actual.rank) == (expected.token_id, expected.rank)
    assert actual.logprob == pytest.approx(expected.logprob, abs=1e-5)
    assert [token for token, _ in actual.top] == [token for token, _ in expected.top]
    assert [value for _, value in actual.top] == pytest.approx([value for _, value in expected.top], abs=1e-5)


def run_steps(
    device: DeviceSampler,
    batch: Batch,
    admissions: tuple[Admission, ...],
    masks_of: Sequence[bytes | None],
    random: torch.Generator,
) -> None:
    """Sample some tokens for each sequence, both ways."""
    beside = Batch(NUM_ROWS, MAX_LEN, 8, torch.device("cpu"))
    sampler = Sampler(beside.token_table)
    beside.apply(StepPlan((), admissions, ()))
    batch.apply(StepPlan((), admissions, ()))
    device.admit(admissions)
    rows = torch.arange(len(admissions))
    for _ in range(4):
        chunks = make_chunks(batch, masks_of)
        logits = 3 * torch.randn(len(admissions), VOCAB, generator=random)
        chosen = device.sample(chunks, rows, batch.num_tokens[rows], logits.clone())
        actual, described = collect(PendingStep([chunk.row for chunk in chunks], chosen, {}))
        expected, logprobs = sampler.sample(
            logits, [sampling_row(beside.row(chunk.row), chunk) for chunk in chunks]
        )
        beside.append(rows, beside.num_tokens[rows], expected)
        assert actual == expected.tolist()
        for ours, theirs in zip(described, logprobs, strict=True):
            assert_same(ours, theirs)
        for row, length in enumerate(beside.num_tokens[rows].tolist()):
            assert batch.num_tokens[row] == length
            assert torch.equal(batch.token_table[row, :length], beside.token_table[row, :length])
    batch.apply(StepPlan(tuple(range(len(admissions))), (), ()))


@given(st.lists(sequences, min_size=1, max_size=3), st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_tokens_and_logprobs_are_those_of_the_sampler(
    rounds: list[list[tuple[dict[str, object], list[int], bytes | None]]], seed: int
) -> None:
    """Round after round, in the same rows: nothing of an earlier sequence is left."""
    batch = Batch(NUM_ROWS, MAX_LEN, 8, torch.device("cpu"))
    device = DeviceSampler(batch, VOCAB)
    random = torch.Generator().manual_seed(seed)
    for drawn in rounds:
        run_steps(device, batch, make_admissions(drawn), [mask for _, _, mask in drawn], random)


def test_rows_without_numbers_or_tokens_fail_alone() -> None:
    batch = Batch(NUM_ROWS, MAX_LEN, 8, torch.device("cpu"))
    device = DeviceSampler(batch, VOCAB)
    sampling = SamplingParams(max_tokens=9, temperature=0.0, presence_penalty=0.5, num_logprobs=2)
    admissions = tuple(Admission(row, [4, 5], 2, sampling) for row in range(4))
    batch.apply(StepPlan((), admissions, ()))
    device.admit(admissions)
    logits = torch.zeros(4, VOCAB)
    logits[:, 7] = 1.0
    logits[1, 3] = torch.nan
    logits[2] = -torch.inf
    chunks = make_chunks(batch, [None, None, None, bytes(8)])
    rows = torch.arange(4)
    chosen = device.sample(chunks, rows, batch.num_tokens[rows], logits)
    token_ids, _ = collect(PendingStep([0, 1, 2, 3], chosen, {}))
    assert token_ids == [7, -1, -1, -2]
    assert batch.token_table[rows, 2].tolist() == [7, 0, 0, 0]


def test_a_batch_that_asks_for_nothing_is_sampled_as_before() -> None:
    batch = Batch(NUM_ROWS, MAX_LEN, 8, torch.device("cpu"))
    device = DeviceSampler(batch, VOCAB)
    shaped = SamplingParams(max_tokens=9, temperature=0.0, logit_bias={3: 100.0})
    plain = msgspec.structs.replace(shaped, logit_bias={})
    for sampling, expected in ((shaped, True), (plain, False)):
        admissions = (Admission(0, [4, 5], 2, sampling),)
        batch.apply(StepPlan((), admissions, ()))
        device.admit(admissions)
        assert device.prepare(make_chunks(batch, [None])) is expected
        batch.apply(StepPlan((0,), (), ()))
    assert device.state.flags.tolist() == [0] * NUM_ROWS
