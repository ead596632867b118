"""Tenants whose secrets lie side by side in a pool that is full, with the prefix cache on."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from checked_device import ON_CPU, SIZES, on_gpu, record
from questions import Agreement, Answer, Question, ask, random_prompt

from pagewire import Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from processes import House

DURATION_S = float(os.environ.get("PAGEWIRE_CHECKS_SECONDS", "8" if ON_CPU else "30"))
"""1200 is what the check asks for; less finds less."""
pytestmark = [pytest.mark.timeout(600 + DURATION_S), *on_gpu, pytest.mark.check("G03")]

NUM_CANARIES = 16
SHARED_LEN = SIZES.tight_len // 12
LONGEST_TAIL = SIZES.tight_len // 8
NUM_TOKENS = SIZES.num_tokens * 3 // 4
NUM_CHOICES = 2
PARROT_PENALTY = 0.01
"""Below 1 it favours what was said: a hundredfold, whatever the model thinks of it."""


@dataclass
class Tenant:
    """Whose prompts begin as everybody's, go on with secret tokens that are its own, and end at random."""

    number: int
    key: str
    alone: dict[Question, Answer] = field(default_factory=dict)
    agreement: Agreement = field(default_factory=Agreement)
    num_parroted: int = 0
    num_told: int = 0
    """Own secrets that were said again."""

    @property
    def secrets(self) -> range:
        first = SIZES.vocab_size // 2 + NUM_CANARIES * self.number
        return range(first, first + NUM_CANARIES)

    def prompt(self, number: int) -> tuple[int, ...]:
        dice = random.Random(f"{self.number}-{number}")
        tail = random_prompt(dice.randrange(1, LONGEST_TAIL), SIZES.vocab_size // 2, self.number, number)
        secrets = dice.sample(self.secrets, NUM_CANARIES)
        return (*random_prompt(SHARED_LEN, SIZES.vocab_size // 2, "shared"), *secrets, *tail)

    def question(self, number: int) -> Question:
        return Question(self.prompt(number), NUM_TOKENS)

    def live(self, target: str, end: threading.Event) -> None:
        """Ask and parrot in turn until the end."""
        with Client(target, api_key=self.key, timeout=300) as client:
            for turn in itertools.count():
                if end.is_set():
                    return
                if turn % 2 == 0:
                    self._ask(client, is_first=turn == 0)
                else:
                    self._parrot(client, turn)

    def _ask(self, client: Client, *, is_first: bool) -> None:
        for question, alone in self.alone.items():
            answer = ask(client, question)
            assert not (is_first and answer.num_cached_tokens), "a foreign prefix was found in the cache"
            self.agreement.add(alone, answer)

    def _parrot(self, client: Client, turn: int) -> None:
        """Let the model say nothing but what it was told in this request."""
        prompt = self.prompt(turn)
        response = client.generate(
            list(prompt), max_tokens=SIZES.num_parroted_tokens, ignore_eos=True, token_ids=True,
            prompt_token_ids=True, temperature=1.0, n=NUM_CHOICES, repetition_penalty=PARROT_PENALTY,
        )  # fmt: skip
        assert tuple(response.started.prompt_token_ids) == prompt
        for choice in response.choices:
            assert len(choice.token_ids) == SIZES.num_parroted_tokens
            said = set(choice.token_ids)
            assert said <= set(prompt), f"tenant {self.number} was told what is not its own"
            self.num_told += len(said & set(self.secrets))
        self.num_parroted += 1


def test_tenants_stay_apart_in_a_full_pool(serve_tight: Callable[[], House], keys: list[str]) -> None:
    """No tenant sees another one's tokens, and each answer is the one given alone, but for near ties.

    A model of random weights would not say a secret that it was told. So half of the calls reward what the
    row's own table of tokens holds: all that they say must come from their own prompts. The other half are
    greedy, and foreign keys or values in the cache would change them.
    """
    house = serve_tight()
    tenants = [Tenant(number, key) for number, key in enumerate(keys)]
    for tenant in tenants:
        with Client(house.grpc_target, api_key=tenant.key, timeout=300) as client:
            question = tenant.question(0)
            tenant.alone[question] = ask(client, question, bypasses_cache=True)
    before = house.stats().engine
    num_blocks = before.num_free_blocks + before.num_owned_blocks + before.num_cached_blocks
    end, most_owned, begun_s = threading.Event(), 0, time.monotonic()
    with ThreadPoolExecutor(len(tenants)) as callers:
        lives = [callers.submit(tenant.live, house.grpc_target, end) for tenant in tenants]
        try:
            while time.monotonic() < begun_s + DURATION_S and not any(life.done() for life in lives):
                most_owned = max(most_owned, house.stats().engine.num_owned_blocks)
                end.wait(0.02)
        finally:
            end.set()
        for life in lives:
            life.result()
    house.wait_until_idle()
    stats = house.stats().engine
    num_preemptions = stats.num_preemptions - before.num_preemptions
    num_hit_tokens = stats.num_prefix_hit_tokens - before.num_prefix_hit_tokens
    total = Agreement()
    for tenant in tenants:
        assert tenant.agreement.num_answers > 0
        total += tenant.agreement
    num_parroted = sum(tenant.num_parroted for tenant in tenants)
    num_told = sum(tenant.num_told for tenant in tenants)
    record(
        "G03",
        seconds=DURATION_S,
        tenants=len(tenants),
        most_owned_share=round(most_owned / num_blocks, 4),
        preemptions=num_preemptions,
        prefix_hit_tokens=num_hit_tokens,
        parroted=num_parroted,
        own_secrets_said=num_told,
        foreign_secrets_said=0,
        **total.figures(),
    )
    assert num_preemptions > 0, "the pool was never full"
    assert num_told > 0, "nobody said a secret: this check would not see one"
    assert num_hit_tokens > 0
    assert stats.num_owned_blocks == 0
    assert stats.num_failed == before.num_failed
