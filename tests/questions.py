"""Questions to a model of random weights, and whether two answers differ by a near tie alone."""

from __future__ import annotations

import bisect
import itertools
import math
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch

from kernels.uniform import seed_keys, uniform_reference
from pagewire import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pagewire import Client, PagewireError, Stream
    from pagewire.v1 import inference_pb2

NUM_TOP = 20
TOP_K = 8
NEAR_TIE = 0.25
"""Log probabilities this close to each other are a near tie in bfloat16. Dummy weights give logits a standard
deviation of 2, so the best of a large vocabulary are between 8 and 16, where bfloat16 has steps of 1/16. Sums
in another order are rounded otherwise in each of 28 layers, which moves each of the two by a step or two."""
NEAR_TIE_FLOAT32 = 0.01
"""In float32 sums in another order move logits by about 1e-5."""
EDGE = 1e-3
"""A number this close to the border of two tokens' shares may be rounded to either side."""


@dataclass(frozen=True)
class Question:
    """A prompt, and how it is to be answered."""

    prompt: tuple[int, ...]
    num_tokens: int
    seed: int | None = None
    """Of a draw among the TOP_K best tokens; None is greedy."""

    @property
    def options(self) -> dict[str, Any]:
        drawn = {"temperature": 0.0}
        if self.seed is not None:
            drawn = {"temperature": 1.0, "top_k": TOP_K, "seed": self.seed}
        return {"max_tokens": self.num_tokens, "ignore_eos": True, "token_ids": True, **drawn}


@dataclass(frozen=True)
class Answer:
    """What came of it."""

    token_ids: tuple[int, ...]
    logprobs: tuple[dict[int, float], ...]
    """Of the best tokens at each position, if they were asked for."""
    num_cached_tokens: int


@dataclass
class Agreement:
    """How answers compare to those that the same questions got alone, up to where they part."""

    num_answers: int = 0
    num_equal_tokens: int = 0
    near_ties: int = 0
    """Answers that part at a near tie."""
    largest_gap: float = 0.0
    """Between the two tokens of a near tie."""
    limit: float = NEAR_TIE
    """Of a near tie's gap."""

    @property
    def share(self) -> float:
        """Of equal tokens among all that were compared."""
        return self.num_equal_tokens / (self.num_equal_tokens + self.near_ties)

    def add(self, alone: Answer, other: Answer) -> None:
        """Compare two answers to a greedy question; fails where they part without a near tie."""
        assert len(alone.token_ids) == len(other.token_ids)
        self.num_answers += 1
        pairs = zip(alone.token_ids, other.token_ids, strict=True)
        place = next((index for index, (one, two) in enumerate(pairs) if one != two), None)
        self.num_equal_tokens += len(alone.token_ids) if place is None else place
        if place is not None:
            gap = gap_at(place, alone, other)
            assert gap <= self.limit, f"the answers part at token {place}, {gap} apart"
            self.near_ties += 1
            self.largest_gap = max(self.largest_gap, gap)

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.num_answers + other.num_answers,
            self.num_equal_tokens + other.num_equal_tokens,
            self.near_ties + other.near_ties,
            max(self.largest_gap, other.largest_gap),
            min(self.limit, other.limit),
        )

    def figures(self) -> dict[str, float]:
        """For a record."""
        return {
            "answers": self.num_answers,
            "equal_share": round(self.share, 5),
            "near_ties": self.near_ties,
            "largest_gap": round(self.largest_gap, 5),
        }


def gap_at(place: int, one: Answer, two: Answer) -> float:
    """How far apart two answers' tokens are, in log probability, where either answer has them closest."""
    gaps = []
    for own, foreign in ((one, two), (two, one)):
        if not own.logprobs:
            continue
        known = own.logprobs[place]
        gaps.append(max(known.values()) - known.get(foreign.token_ids[place], -math.inf))
    return min(gaps)


def misdraws(question: Question, answer: Answer) -> tuple[int, int]:
    """Draw each token again from the log probabilities beside it, by the number of seed and position alone.

    Returns:
        How many tokens are others than those drawn here, and how many could be either of two.
    """
    assert question.seed is not None
    positions = torch.arange(len(answer.token_ids)) + len(question.prompt)
    numbers = uniform_reference(seed_keys([question.seed], torch.device("cpu")), positions).tolist()
    num_wrong = num_open = 0
    for number, token_id, known in zip(numbers, answer.token_ids, answer.logprobs, strict=True):
        ranked = sorted(known.values(), reverse=True)
        kept = sorted(token for token, value in known.items() if value >= ranked[TOP_K - 1])
        ends = list(itertools.accumulate(math.exp(known[token]) for token in kept))
        shares = [end / ends[-1] for end in ends]
        drawn = kept[min(bisect.bisect_right(shares, number), len(kept) - 1)]
        is_open = len(kept) == len(ranked) or min(abs(share - number) for share in shares[:-1]) < EDGE
        num_open += is_open
        num_wrong += drawn != token_id and not is_open
    return num_wrong, num_open


def random_prompt(length: int, vocab_size: int, *name: object) -> tuple[int, ...]:
    """Token ids without the last one, which ends texts; the same for the same name."""
    dice = random.Random(repr((length, *name)))
    return tuple(dice.randrange(vocab_size - 1) for _ in range(length))


def ask(
    client: Client, question: Question, *, bypasses_cache: bool = False, has_logprobs: bool = True
) -> Answer:
    """Ask, and wait for the whole answer."""
    options = question.options
    if has_logprobs:
        options["logprobs"] = NUM_TOP
    response = client.generate(
        list(question.prompt), bypass_prefix_cache=bypasses_cache, timeout=300, **options
    )
    (choice,) = response.choices
    assert len(choice.token_ids) == question.num_tokens
    top = tuple({each.token_id: each.logprob for each in entry.top} for entry in choice.logprobs)
    return Answer(tuple(choice.token_ids), top, response.usage.num_cached_tokens)


def ask_together(client: Client, questions: Sequence[Question], **how: bool) -> list[Answer]:
    """Ask all at once."""
    with ThreadPoolExecutor(len(questions)) as callers:
        return list(callers.map(lambda question: ask(client, question, **how), questions))


def read(stream: Stream) -> inference_pb2.Finished:
    """Read a stream to its end."""
    for _ in stream:
        pass
    assert stream.finished is not None
    return stream.finished


def read_until_lost(stream: Stream) -> tuple[PagewireError, float]:
    """Read a stream that the server loses; return what its caller is told, and when."""
    with pytest.raises(UnavailableError) as raised:
        read(stream)
    return raised.value, time.monotonic()
