"""Questions asked in many ways, and whether the answers are those that were given alone."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from checked_device import SIZES
from processes import wait_until
from questions import NEAR_TIE, Agreement, Answer, Question, ask, ask_together, misdraws, random_prompt

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from processes import House

    from pagewire import Client

SEEDS = (0, 7, -(2**63), 2**63 - 1)
MAX_OPEN_SHARE = 0.1
"""Of draws that could be either of two tokens."""


def prompts() -> list[tuple[int, ...]]:
    return [random_prompt(length, SIZES.vocab_size) for length in SIZES.prompt_lens]


GREEDY = [Question(prompt, SIZES.num_tokens) for prompt in prompts()]
DRAWN = [
    Question(prompt, SIZES.num_tokens, SEEDS[index % len(SEEDS)]) for index, prompt in enumerate(prompts())
]
QUESTIONS = GREEDY + DRAWN


@dataclass(frozen=True)
class Trial:
    """Compares answers to those that were given alone."""

    alone: dict[Question, Answer]
    near_tie: float = NEAR_TIE
    min_share: float = 0.0
    """Of equal tokens in each way of asking."""
    figures: dict[str, dict[str, float]] = field(default_factory=dict)

    def judge(self, name: str, answers: dict[Question, Answer]) -> None:
        """Judge the answers that were given in this way."""
        agreement, num_draws, num_open = Agreement(limit=self.near_tie), 0, 0
        for question, answer in answers.items():
            if question.seed is None:
                agreement.add(self.alone[question], answer)
                continue
            wrong, uncertain = misdraws(question, answer)
            assert wrong == 0, f"{name}: {wrong} tokens are not those of seed {question.seed}"
            num_draws += question.num_tokens
            num_open += uncertain
        self.figures[name] = agreement.figures()
        if num_draws:
            self.figures[name] |= {"draws": num_draws, "open_draws": num_open}
            assert num_open <= MAX_OPEN_SHARE * num_draws
        assert agreement.share >= self.min_share, f"{name}: {agreement.figures()}"


@contextlib.contextmanager
def company(house: House, client: Client, num_seqs: int, max_tokens: int = SIZES.tight_len) -> Iterator[None]:
    """So many other sequences that run meanwhile, each for so many tokens."""
    prompt = random_prompt(33, SIZES.vocab_size, "company")
    with contextlib.ExitStack() as stack:
        for first in range(0, num_seqs, 128):
            count = min(128, num_seqs - first)
            stream = client.stream(
                prompt, n=count, temperature=1.0, max_tokens=max_tokens, ignore_eos=True, seed=first
            )
            stack.enter_context(stream)
            next(stream)
        wait_until(lambda: house.stats().engine.num_running == num_seqs, "the company runs", 60)
        yield
    house.wait_until_idle()


def shuffled(seed: int) -> list[Question]:
    return random.Random(seed).sample(QUESTIONS, len(QUESTIONS))


def together(client: Client, questions: Sequence[Question], **how: bool) -> dict[Question, Answer]:
    answers = ask_together(client, questions, bypasses_cache=True, **how)
    return dict(zip(questions, answers, strict=True))


def judge_cache(trial: Trial, client: Client) -> None:
    """Ask twice by the cache: the second time it has the prompts that fill a block."""
    missed = {each: ask(client, each) for each in QUESTIONS}
    trial.judge("cache, first", missed)
    hit = {each: ask(client, each) for each in QUESTIONS}
    assert any(answer.num_cached_tokens > 0 for answer in hit.values())
    trial.judge("cache, again", hit)


def judge_preemption(trial: Trial, house: House, client: Client, num_others: int) -> None:
    """Ask while others grow, until the pool is full: the youngest lose their blocks, which are our own.

    The others end some time after us, so that those of us who lost their blocks get them again soon.
    """
    before = house.stats().engine.num_preemptions
    num_rounds = 0
    while house.stats().engine.num_preemptions == before:
        with company(house, client, num_others, max_tokens=4 * SIZES.num_tokens):
            trial.judge("preempted", together(client, shuffled(2 + num_rounds)))
        num_rounds += 1
        assert num_rounds < 10, "nobody was preempted"
    trial.figures["preempted"]["preemptions"] = house.stats().engine.num_preemptions - before
