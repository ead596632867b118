from __future__ import annotations

import pytest

from engine.messages import EngineRequest, FinishReason, SamplingParams, TokenLogprobs
from engine.request import Request

EOS, STOP, OTHER = 0, 1, 7


def make_request(
    prompt: list[int], params: SamplingParams | None = None, max_model_len: int = 100
) -> Request:
    params = params or SamplingParams(max_tokens=10)
    return Request(EngineRequest("r", prompt, params), (0, 0, 0), max_model_len, uses_cache=True)


def test_end_of_sequence_ends_silently_and_a_stop_token_by_name() -> None:
    params = SamplingParams(max_tokens=10, eos_token_ids=(EOS,), stop_token_ids=(STOP,))
    assert make_request([5], params).append(OTHER) == (None, None)
    assert make_request([5], params).append(EOS) == (FinishReason.STOP, None)
    assert make_request([5], params).append(STOP) == (FinishReason.STOP, STOP)
    assert make_request([5]).append(EOS) == (None, None)


def test_min_tokens_come_before_any_stop() -> None:
    request = make_request([5], SamplingParams(max_tokens=10, eos_token_ids=(EOS,), min_tokens=2))
    assert [request.append(EOS)[0] for _ in range(3)] == [None, None, FinishReason.STOP]


@pytest.mark.parametrize(("max_tokens", "max_model_len"), [(3, 100), (50, 5)])
def test_ends_at_max_tokens_and_at_the_context_end(max_tokens: int, max_model_len: int) -> None:
    request = make_request([5, 6], SamplingParams(max_tokens), max_model_len)
    assert [request.append(OTHER)[0] for _ in range(3)] == [None, None, FinishReason.LENGTH]


def test_a_stop_at_the_last_token_counts_as_a_stop() -> None:
    request = make_request([5], SamplingParams(max_tokens=1, eos_token_ids=(EOS,)))
    assert request.append(EOS) == (FinishReason.STOP, None)


def test_the_last_known_token_is_never_reused() -> None:
    request = make_request(list(range(8)))
    assert len(list(request.reusable_keys(4))) == 1
    request.append(OTHER)
    assert len(list(request.reusable_keys(4))) == 2


def test_prompt_logprobs_are_given_once_and_keep_from_the_cache_until_then() -> None:
    request = make_request(list(range(9)), SamplingParams(max_tokens=10, num_prompt_logprobs=2))
    assert list(request.reusable_keys(4)) == []
    request.prompt_logprobs.append(TokenLogprobs(1, -0.5, 1, []))
    assert request.take_prompt_logprobs() == [TokenLogprobs(1, -0.5, 1, [])]
    assert request.take_prompt_logprobs() is None
    assert len(list(request.reusable_keys(4))) == 2


def test_keys_are_made_when_they_are_asked_for() -> None:
    request = make_request(list(range(13)))
    keys = request.reusable_keys(4)
    assert request.block_keys == []
    first = next(keys)
    assert request.block_keys == [first] == [request.next_key(4)]
    request.start(12)
    assert request.next_key(4) is None, "the block is not full of known tokens"
    assert list(keys) == request.block_keys[1:]
    assert len(request.block_keys) == 3


def test_the_cache_hit_is_told_once() -> None:
    request = make_request([5])
    request.num_cached_tokens = 4
    assert request.take_num_cached_tokens() == 4
    assert request.take_num_cached_tokens() is None


def test_a_restart_keeps_the_known_tokens() -> None:
    request = make_request([5, 6])
    assert request.plan(2)
    request.num_computed_tokens = 2
    request.append(OTHER)
    request.restart()
    assert (list(request.token_ids), request.num_unplanned_tokens) == ([5, 6, OTHER], 3)


def test_a_sampled_token_is_planned_upon_before_it_is_known() -> None:
    request = make_request([5, 6, 7], SamplingParams(max_tokens=2))
    assert (request.plan(2), request.num_unplanned_tokens) == (False, 1)
    assert (request.plan(1), request.num_unplanned_tokens) == (True, 1)
    assert (request.plan(1), request.num_unplanned_tokens) == (True, 0)
    assert request.is_in_flight
