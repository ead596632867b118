"""What a question is answered with does not depend on what else is in the batch."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from checked_device import SIZES, on_gpu, record
from processes import wait_until
from questions import Agreement, Answer, Question, ask, ask_together, misdraws, random_prompt

from pagewire import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from on_gpu.conftest import Device
    from processes import House

pytestmark = [*on_gpu, pytest.mark.check("G01")]

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


class Trial:
    """Compares answers to those that were given alone."""

    def __init__(self, alone: dict[Question, Answer]) -> None:
        self.alone = alone
        self.figures: dict[str, dict[str, float]] = {}

    def judge(self, name: str, answers: dict[Question, Answer]) -> None:
        """Judge the answers that were given in this way."""
        agreement, num_draws, num_open = Agreement(), 0, 0
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


@contextlib.contextmanager
def company(house: House, client: Client, num_seqs: int) -> Iterator[None]:
    """So many other sequences that run meanwhile."""
    prompt = random_prompt(33, SIZES.vocab_size, "company")
    with contextlib.ExitStack() as stack:
        for first in range(0, num_seqs, 128):
            count = min(128, num_seqs - first)
            stream = client.stream(
                prompt, n=count, temperature=1.0, max_tokens=SIZES.tight_len, ignore_eos=True, seed=first
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


def test_answers_are_those_given_alone(
    device: Device, serve_tight: Callable[[], House], keys: list[str]
) -> None:
    """Alone, in batches from 2 to the largest, in any order, from the cache, in chunks, after preemption.

    Two things are proven for each way, and neither counts what only follows from an earlier difference:

    - The random stream is that of (seed, position). Each drawn token is drawn again here, from the log
      probabilities reported beside it and the number that `kernels.uniform` has for seed and position:
      none is another one. A number that lies within 0.001 of the border of two tokens' shares proves nothing,
      as rounding may put it on either side; such are counted.
    - A greedy answer parts from the one given alone only at a near tie of the two tokens, as reported beside
      them. Batches of other sizes add in another order, which moves logits by a rounding step. Where one
      comes without log probabilities, as the fastest way has it, those of the other one decide.

    Before it parts, all of an answer's tokens that are no near tie are equal. What share is equal of all is
    recorded, and no bound is set: it tells more of the weights than of the engine. Logits of dummy weights
    are flat: of 354 positions of the published shape 5 % were ties, and 16 % within a step of bfloat16.
    """
    house = device.serve()
    with Client(house.grpc_target, timeout=300) as client:
        alone = {question: ask(client, question, bypasses_cache=True) for question in QUESTIONS}
        trial = Trial(alone)
        trial.judge("alone", alone)
        for question in DRAWN:
            other = replace(question, seed=SEEDS[0] + 1)
            assert misdraws(other, alone[question])[0] > 0, "another stream would not be seen"
        trial.judge("alone again", {each: ask(client, each, bypasses_cache=True) for each in QUESTIONS})
        with company(house, client, 1):
            trial.judge("batch of 2", {each: ask(client, each, bypasses_cache=True) for each in QUESTIONS})
        for num_seqs in sorted({len(QUESTIONS), SIZES.max_num_seqs // 4, SIZES.max_num_seqs}):
            with company(house, client, max(0, num_seqs - len(QUESTIONS))):
                trial.judge(f"batch of {num_seqs}", together(client, shuffled(num_seqs)))
        trial.judge("without log probabilities", together(client, GREEDY, has_logprobs=False))
        judge_cache(trial, client)
    tight = serve_tight()
    with Client(tight.grpc_target, timeout=300, api_key=keys[0]) as client:
        trial.judge("alone, in chunks", {each: ask(client, each, bypasses_cache=True) for each in QUESTIONS})
        trial.judge("together, in chunks", together(client, shuffled(1)))
        judge_preemption(trial, tight, client)
    record("G01", **trial.figures)


def judge_cache(trial: Trial, client: Client) -> None:
    """Ask twice by the cache: the second time it has the prompts that fill a block."""
    missed = {each: ask(client, each) for each in QUESTIONS}
    trial.judge("cache, first", missed)
    hit = {each: ask(client, each) for each in QUESTIONS}
    assert any(answer.num_cached_tokens > 0 for answer in hit.values())
    trial.judge("cache, again", hit)


def judge_preemption(trial: Trial, house: House, client: Client) -> None:
    """Ask while others grow, until the pool is full: the youngest lose their blocks, which are our own."""
    before = house.stats().engine.num_preemptions
    num_rounds = 0
    while house.stats().engine.num_preemptions == before:
        stats = house.stats().engine
        num_blocks = stats.num_free_blocks + stats.num_owned_blocks + stats.num_cached_blocks
        with company(house, client, min(num_blocks // 6, SIZES.max_num_seqs // 2)):
            trial.judge("preempted", together(client, shuffled(2 + num_rounds)))
        num_rounds += 1
        assert num_rounds < 10
    trial.figures["preempted"]["preemptions"] = house.stats().engine.num_preemptions - before
