"""Grammars on their threads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from engine.grammars import GrammarMatcher, Grammars
from engine.messages import EngineRequest, FinishReason, SamplingParams, Vocabulary
from server.grammars import Grammar, regex_part

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT_S = 30.0
VOCABULARY = Vocabulary([bytes([byte]) for byte in range(256)] + [b"<end>"], [256], [256])


class Threads:
    def __init__(self) -> None:
        self._changed = threading.Semaphore(0)
        self.grammars = Grammars(257, self._changed.release)
        self.grammars.learn(VOCABULARY)

    def wait(self, condition: Callable[[], object]) -> None:
        while not condition():
            assert self._changed.acquire(timeout=TIMEOUT_S)

    def open(self, request_id: str, pattern: str) -> GrammarMatcher | None:
        grammar = Grammar("", "start: @answer", (("answer", regex_part(pattern)),)).text
        self.grammars.open(EngineRequest(request_id, [1], SamplingParams(max_tokens=9), grammar=grammar))
        while not (opened := self.grammars.opened()):
            assert self._changed.acquire(timeout=TIMEOUT_S)
        ((request, matcher),) = opened
        assert request.request_id == request_id
        return matcher


def is_waiting(matcher: GrammarMatcher) -> bool:
    return matcher.mask is None and matcher.ending is None


@pytest.fixture
def threads() -> Threads:
    return Threads()


def test_a_matcher_follows_the_tokens_it_takes(threads: Threads) -> None:
    matcher = threads.open("one", "ab")
    assert matcher is not None
    for token_id in b"ab":
        mask = matcher.mask
        assert mask is not None
        assert mask[token_id // 8] >> (token_id % 8) & 1
        matcher.take(token_id)
        assert is_waiting(matcher)
        threads.grammars.follow()
        threads.wait(lambda: not is_waiting(matcher))
    assert matcher.ending is FinishReason.COMPLETE


def test_sequences_of_one_grammar_do_not_disturb_each_other(threads: Threads) -> None:
    first, second = threads.open("first", "ab|ac"), threads.open("second", "ab|ac")
    assert first is not None
    assert second is not None
    before = second.mask
    first.take(ord("a"))
    threads.grammars.follow()
    threads.wait(lambda: first.mask)
    assert first.mask != before
    assert second.mask == before


def test_a_bad_grammar_opens_without_a_matcher(threads: Threads) -> None:
    assert threads.open("bad", "(a") is None


def test_a_token_against_the_grammar_ends_it(threads: Threads) -> None:
    matcher = threads.open("one", "ab")
    assert matcher is not None
    matcher.take(ord("x"))
    threads.grammars.follow()
    threads.wait(lambda: matcher.ending)
    assert matcher.ending is FinishReason.FAILED


def test_a_sequence_that_leaves_is_not_opened(threads: Threads) -> None:
    grammar = Grammar("", "start: @answer", (("answer", regex_part("a")),)).text
    request = EngineRequest("gone", [1], SamplingParams(max_tokens=9), grammar=grammar)
    threads.grammars.open(request)
    assert threads.grammars.close("gone")
    assert not threads.grammars.close("gone")
    threads.open("other", "a")


def test_nothing_taken_is_nothing_to_follow(threads: Threads) -> None:
    threads.grammars.follow()
    assert threads.grammars.opened() == []
