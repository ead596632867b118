"""What a benchmark asks of a server: requests of random token ids, the same for the same seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

FIRST_ID = 300
"""Smaller ids are often special tokens."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Requests, and how many of them are open at once."""

    num_requests: int = 128
    concurrency: int = 32
    prompt_lens: tuple[int, int] = (512, 512)
    """Least and most tokens, beside the shared prefix."""
    output_lens: tuple[int, int] = (256, 256)
    prefix_len: int = 0
    """Tokens that all prompts begin with."""
    request_rate: float = 0.0
    """Requests a second on average, at random times; 0 sends as soon as `concurrency` allows."""
    seed: int = 0

    @property
    def mean_prompt_len(self) -> float:
        """Tokens of a prompt, prefix included."""
        return self.prefix_len + sum(self.prompt_lens) / 2

    @property
    def mean_output_len(self) -> float:
        """Tokens of an output."""
        return sum(self.output_lens) / 2


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request. End-of-sequence is ignored, so the output has exactly this length."""

    token_ids: list[int]
    output_len: int


PRESETS = {
    "s1": Workload(num_requests=6, concurrency=1),
    "s32": Workload(num_requests=128, concurrency=32),
    "s128": Workload(num_requests=512, concurrency=128),
    "s256": Workload(num_requests=1024, concurrency=256),
    "t256": Workload(num_requests=256, concurrency=256, prompt_lens=(100, 1024), output_lens=(100, 1024)),
    "pfx": Workload(
        num_requests=128, concurrency=32, prompt_lens=(64, 64), output_lens=(32, 32), prefix_len=4096
    ),
    "long": Workload(num_requests=8, concurrency=8, prompt_lens=(16000, 16000), output_lens=(128, 128)),
}
"""Loads of chat servers by name: streams at once, mixed lengths at once, a shared prefix, long prompts."""


def plan_requests(workload: Workload, vocab_size: int) -> list[PlannedRequest]:
    """Return the workload's requests, with token ids below `vocab_size`."""
    # Workloads must not share prompts by chance: the second one would find them in the cache.
    numbers = random.Random(repr(workload))
    first = min(FIRST_ID, vocab_size - 1)

    def draw(num_tokens: int) -> list[int]:
        return [numbers.randrange(first, vocab_size) for _ in range(num_tokens)]

    prefix = draw(workload.prefix_len)
    return [
        PlannedRequest(
            prefix + draw(numbers.randint(*workload.prompt_lens)), numbers.randint(*workload.output_lens)
        )
        for _ in range(workload.num_requests)
    ]
