"""The layout of short passes: each token meets its own sequence in the static inputs."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, cast

import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.forward_inputs import ForwardInputs
from engine.limits import Limits
from engine.short_steps import MAX_NUM_PROMPTS, Shape, ShortSteps, decode_slots
from kernels.paged_attention import AttentionMetadata

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.cuda_graphs import CapturedGraph, GraphCapturer
    from engine.models.causal_lm import CausalLM

MAX_BLOCKS = 7
NOBODY = -7.0
LIMITS = Limits(block_size=16, max_num_seqs=100, max_num_batched_tokens=600, max_model_len=112)


class Replayed:
    """A graph that computes anew."""

    def __init__(self, compute: Callable[[], torch.Tensor]) -> None:
        self.replay = compute


class Capturer:
    def capture(self, compute: Callable[[], torch.Tensor]) -> CapturedGraph:
        return cast("CapturedGraph", Replayed(compute))


def describe(inputs: ForwardInputs, _caches: object = ()) -> torch.Tensor:
    """Hidden states [num_tokens, 5] that say what each token meets: what the kernels read, where they do."""
    attention = inputs.attention
    hidden = torch.full((len(inputs.token_ids), 5), NOBODY)
    starts = attention.query_start.tolist()
    spans = [(token, token + 1) for token in range(attention.num_decodes)]
    spans += list(pairwise(starts))[attention.num_decodes :]
    for seq, (start, end) in enumerate(spans):
        context_len = int(attention.context_lens[seq])
        if context_len == 0:
            continue
        hidden[start:end, 0] = inputs.token_ids[start:end].float()
        hidden[start:end, 1] = inputs.positions[start:end].float()
        hidden[start:end, 2] = inputs.slots[start:end].float()
        hidden[start:end, 3] = context_len
        hidden[start:end, 4] = attention.block_tables[seq, (context_len - 1) // LIMITS.block_size].float()
    written = inputs.slots >= 0
    assert torch.equal(written, hidden[:, 0] != NOBODY), "padding must not be written to the cache"
    return hidden


def make_inputs(query_lens: Sequence[int]) -> ForwardInputs:
    """A pass of distinct tokens over sequences of distinct blocks."""
    num_tokens = sum(query_lens)
    context_lens = [query + (11 * seq) % 60 for seq, query in enumerate(query_lens)]
    num_blocks = max(-(-context // LIMITS.block_size) for context in context_lens)
    starts = torch.tensor([0, *query_lens]).cumsum(0)
    positions = [
        torch.arange(context - query, context)
        for query, context in zip(query_lens, context_lens, strict=True)
    ]
    return ForwardInputs(
        token_ids=torch.arange(1, num_tokens + 1, dtype=torch.int32),
        positions=torch.cat(positions),
        slots=torch.arange(num_tokens) + 5000,
        attention=AttentionMetadata(
            query_start=starts.int(),
            context_lens=torch.tensor(context_lens, dtype=torch.int32),
            block_tables=torch.arange(len(query_lens) * num_blocks, dtype=torch.int32).view(-1, num_blocks),
            query_lens=list(query_lens),
            context_lens_list=context_lens,
            num_decodes=next((i for i, size in enumerate(query_lens) if size > 1), len(query_lens)),
        ),
    )


def make_steps(limits: Limits = LIMITS) -> ShortSteps:
    model = cast("CausalLM", describe)
    steps = ShortSteps(model, (), limits, MAX_BLOCKS, torch.device("cpu"))
    steps.capture(cast("GraphCapturer", Capturer()))
    return steps


STEPS = make_steps()
PASSES = st.tuples(st.integers(0, 100), st.lists(st.integers(2, 50), max_size=MAX_NUM_PROMPTS))


@given(st.lists(PASSES.filter(any), min_size=1, max_size=3))
def test_each_token_meets_its_own_sequence(passes: list[tuple[int, list[int]]]) -> None:
    for num_decodes, prompts in passes:
        inputs = make_inputs([1] * num_decodes + prompts)
        if STEPS.suit(inputs):
            assert torch.equal(STEPS.run(inputs), describe(inputs))


def test_what_suits() -> None:
    assert STEPS.shape_of(make_inputs([1] * 8)) == Shape(0, 64)
    assert STEPS.shape_of(make_inputs([1] * 5 + [65, 2])) == Shape(0, 128)
    assert STEPS.shape_of(make_inputs([1] * 8 + [65])) == Shape(32, 128)
    assert STEPS.shape_of(make_inputs([1] * 33 + [50] * 8)) == Shape(64, 512)
    assert STEPS.shape_of(make_inputs([1] * 65 + [2])) == Shape(100, 64)
    assert STEPS.shape_of(make_inputs([1] * 101 + [2])) is None
    assert STEPS.shape_of(make_inputs([2] * 32)) == Shape(32, 64)
    assert STEPS.shape_of(make_inputs([2] * 33)) is None
    assert STEPS.shape_of(make_inputs([1] * 32 + [60] * 8)) == Shape(32, 512)
    assert STEPS.shape_of(make_inputs([1] * 9 + [100] * 6)) is None


def test_few_sequences_need_no_slots_for_decodes() -> None:
    assert decode_slots(8) == []
    assert decode_slots(20) == [20]
    assert decode_slots(1000) == [32, 64, 128, 256]
    small = Limits(block_size=16, max_num_seqs=8, max_num_batched_tokens=32, max_model_len=112)
    assert make_steps(small).shapes() == []
