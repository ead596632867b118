"""Grammars that sequences must follow: compiled and turned into masks on threads beside the steps."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from engine.grammar_compiler import GrammarCompiler, GrammarError
from engine.grammar_templates import GrammarTemplates
from engine.messages import FinishReason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    import llguidance

    from engine.messages import EngineRequest, Vocabulary

NUM_COMPILING_THREADS = 2
MAX_FOLLOWING_THREADS = 8


class GrammarMatcher:
    """Implements `TokenMatcher`. A thread of `Grammars` changes it between `take` and the next mask."""

    def __init__(
        self,
        compiler: GrammarCompiler,
        matcher: llguidance.LLMatcher,
        mask: bytes,
        queue: list[GrammarMatcher],
    ) -> None:
        self.mask: bytes | None = mask
        self.ending: FinishReason | None = None
        self._matcher = matcher
        self._queue = queue
        self._compiler = compiler
        self._token_id = -1

    def take(self, token_id: int) -> None:
        """See `TokenMatcher`."""
        self.mask = None
        self._token_id = token_id
        self._queue.append(self)

    def follow(self) -> None:
        """Go on by the token that was taken."""
        try:
            mask = self._compiler.advance(self._matcher, self._token_id)
        except GrammarError:
            self.ending = FinishReason.FAILED
            return
        if mask is None:
            self.ending = FinishReason.COMPLETE
        else:
            self.mask = mask


class Grammars:
    """Owns the threads. Its methods are called on the engine's thread.

    Args:
        vocab_size: of the model, which may be larger than the tokenizer's.
        on_change: called on some thread when there is something new: a compiled grammar, or masks.
    """

    def __init__(self, vocab_size: int, on_change: Callable[[], None]) -> None:
        self._vocab_size = vocab_size
        self._on_change = on_change
        self._compiling = ThreadPoolExecutor(NUM_COMPILING_THREADS, "grammar-compiler")
        self._num_followers = min(MAX_FOLLOWING_THREADS, max(1, (os.cpu_count() or 1) // 2))
        self._following = ThreadPoolExecutor(self._num_followers, "grammar-follower")
        self._compiler: Future[GrammarCompiler] | None = None
        self._opening: dict[str, tuple[EngineRequest, Future[GrammarMatcher]]] = {}
        self._taken: list[GrammarMatcher] = []
        self._jobs: list[Future[None]] = []
        self._templates = GrammarTemplates(self._compile)

    def learn(self, vocabulary: Vocabulary) -> None:
        """Take the tokens' texts, once, before any sequence."""
        self._compiler = self._compiling.submit(GrammarCompiler, vocabulary, self._vocab_size)

    def open(self, request: EngineRequest) -> None:
        """Begin to compile a sequence's grammar."""
        future = self._compiling.submit(self._open, request.grammar)
        self._opening[request.request_id] = request, future
        future.add_done_callback(lambda _: self._on_change())

    def opened(self) -> list[tuple[EngineRequest, GrammarMatcher | None]]:
        """Return the sequences whose grammars were compiled since the last call; None for a bad grammar."""
        self._check_jobs()
        done = [(request, future) for request, future in self._opening.values() if future.done()]
        for request, _ in done:
            del self._opening[request.request_id]
        return [(request, _result(future)) for request, future in done]

    def close(self, request_id: str) -> bool:
        """Forget a sequence whose grammar is not compiled yet. Return whether there is one."""
        return self._opening.pop(request_id, None) is not None

    def follow(self) -> None:
        """Begin to compute the masks that follow the tokens taken since the last call."""
        taken = self._taken.copy()
        self._taken.clear()
        size = -(-len(taken) // self._num_followers)
        for first in range(0, len(taken), size or 1):
            self._jobs.append(self._following.submit(self._follow, taken[first : first + size]))

    def _follow(self, matchers: Sequence[GrammarMatcher]) -> None:
        for matcher in matchers:
            matcher.follow()
        self._on_change()

    def _check_jobs(self) -> None:
        """Raise what a thread has failed by; it would be a bug of ours."""
        for job in self._jobs:
            if job.done():
                job.result()
        self._jobs = [job for job in self._jobs if not job.done()]

    def _open(self, grammar: str) -> GrammarMatcher:
        assert self._compiler is not None, "the server sends its vocabulary before any request"
        template, mask = self._templates.get(grammar)
        return GrammarMatcher(self._compiler.result(), template.deep_copy(), mask, self._taken)

    def _compile(self, grammar: str) -> tuple[llguidance.LLMatcher, bytes]:
        assert self._compiler is not None
        return self._compiler.result().compile(grammar)


def _result(future: Future[GrammarMatcher]) -> GrammarMatcher | None:
    try:
        return future.result()
    except GrammarError:
        return None
