"""Tokens that a row may not choose, by the sampler."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.messages import SamplingParams
from engine.sampler import Sampler, SamplingRow, is_plain

VOCAB = 40
PROMPT = [5, 6]


def choose(
    logits: torch.Tensor, history: list[int], mask: bytes | None = None, **options: object
) -> tuple[int, list[tuple[int, float]]]:
    """The token that one row gets after a prompt of two tokens and a history, and what it reports."""
    params = SamplingParams(max_tokens=100, **{"temperature": 0.0, **options})  # type: ignore[arg-type]
    table = torch.full((1, 64), 7)
    tokens = PROMPT + history
    table[0, : len(tokens)] = torch.tensor(tokens)
    row = SamplingRow(params, 0, len(tokens), len(PROMPT), mask)
    token_ids, logprobs = Sampler(table).sample(logits.clone()[None], [row])
    return int(token_ids[0]), [] if logprobs[0] is None else logprobs[0].top


def falling() -> torch.Tensor:
    """Token 0 is the most likely, and so on."""
    return -torch.arange(VOCAB, dtype=torch.float32)


def mask_of(*token_ids: int) -> bytes:
    return sum(1 << token_id for token_id in token_ids).to_bytes(8, "little")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_allowed_tokens_come(temperature: float) -> None:
    token_id, _ = choose(falling(), [], allowed_token_ids=(9, 30), temperature=temperature)
    assert token_id == 9


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([], 1),  # 0 alone is forbidden, and 1 only after others
        ([2], 3),  # (2, 1)
        ([3, 2], 4),  # (2, 1) and (3, 2, 3)
        ([2, 3], 1),
    ],
)
def test_bad_words_are_cut_before_their_last_token(history: list[int], expected: int) -> None:
    words = ((0,), (2, 1), (2, 2), (3, 2, 3))
    assert choose(falling(), history, bad_words=words)[0] == expected


def test_a_bad_word_that_the_prompt_begins_may_be_ended() -> None:
    assert choose(falling(), [], bad_words=((5, 6, 0), (6, 0)))[0] == 0


@given(
    history=st.lists(st.integers(0, 4), max_size=8),
    words=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), min_size=1, max_size=6),
)
def test_bad_words_never_come(history: list[int], words: list[list[int]]) -> None:
    token_id, _ = choose(falling(), history, bad_words=tuple(map(tuple, words)))
    text = [*history, token_id]
    assert not any(text[-len(word) :] == word for word in words)
    better = [[*history, one] for one in range(token_id)]
    assert all(any(each[-len(word) :] == word for word in words) for each in better)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_mask_leaves_only_its_tokens(temperature: float) -> None:
    assert choose(falling(), [], mask_of(12, 39), temperature=temperature)[0] == 12


def test_reported_log_probabilities_are_those_of_the_model() -> None:
    token_id, top = choose(falling(), [], mask_of(12), num_logprobs=2)
    assert token_id == 12
    assert [one for one, _ in top] == [0, 1]


def test_listed_tokens_are_reported_instead_of_the_likely_ones() -> None:
    _, top = choose(falling(), [], num_logprobs=0, logprob_token_ids=(30, 4))
    logprobs = falling().log_softmax(-1)
    assert [one for one, _ in top] == [4, 30]
    assert [value for _, value in top] == pytest.approx([float(logprobs[4]), float(logprobs[30])], abs=1e-5)


def test_limits_that_exclude_each_other_say_so() -> None:
    assert choose(falling(), [], mask_of(12), allowed_token_ids=(13,))[0] == -2
    assert choose(falling(), [], mask_of(12), bad_words=((12,),), temperature=1.0)[0] == -2
    bad = falling()
    bad[3] = torch.nan
    assert choose(bad, [], mask_of(12))[0] == -1


def test_rows_with_limits_are_not_plain() -> None:
    assert is_plain(SamplingParams(max_tokens=1))
    assert not is_plain(SamplingParams(max_tokens=1, allowed_token_ids=(1,)))
    assert not is_plain(SamplingParams(max_tokens=1, bad_words=((1,),)))
