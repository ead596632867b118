"""The first requests after the start are the worst that there can be."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from checked_device import ON_CPU, SIZES, device_memory_bytes, on_gpu, record
from questions import random_prompt

from pagewire import Client

if TYPE_CHECKING:
    from on_gpu.conftest import Device

    from pagewire.options import Options

pytestmark = [*on_gpu, pytest.mark.check("G02")]

MAX_CHOICES = 128
NUM_OUTPUT_TOKENS = 16
GIBIBYTE = 1 << 30


def worst_requests() -> list[tuple[tuple[int, ...], Options]]:
    """The longest prompt; most choices, until all rows are taken; each with all that sampling can cost."""
    costly: Options = {
        "max_tokens": NUM_OUTPUT_TOKENS,
        "ignore_eos": True,
        "logprobs": 20,
        "temperature": 1.0,
        "top_p": 0.9,
        "top_k": 1000,
        "min_p": 0.01,
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.1,
        "seed": 1,
    }
    num_choices = min(MAX_CHOICES, SIZES.max_num_seqs)
    longest = random_prompt(SIZES.context_len - NUM_OUTPUT_TOKENS, SIZES.vocab_size, "longest")
    described = random_prompt(min(2000, SIZES.context_len // 2), SIZES.vocab_size, "described")
    many: Options = {**costly, "n": num_choices}
    prompts = [
        random_prompt(100 + number, SIZES.vocab_size) for number in range(SIZES.max_num_seqs // num_choices)
    ]
    return [
        (longest, costly),
        *((prompt, many) for prompt in prompts),
        (described, {**costly, "prompt_logprobs": 20}),
    ]


def test_the_worst_first_requests_fit(device: Device) -> None:
    """With the default flags nothing runs out of memory, and 2 % of the device or a gibibyte stays free.

    Longest prompt, all rows at once, most choices and log probabilities, with every filter and penalty.
    """
    house = device.serve()
    assert house.stats().engine.num_prompt_tokens == 0, "a fresh server is needed: run this check first"
    requests = worst_requests()
    with Client(house.grpc_target, timeout=300) as client, ThreadPoolExecutor(len(requests)) as callers:

        def call(request: tuple[tuple[int, ...], Options]) -> int:
            prompt, options = request
            return client.generate(list(prompt), **options).usage.num_completion_tokens

        num_tokens = list(callers.map(call, requests))
    assert num_tokens == [NUM_OUTPUT_TOKENS * options.get("n", 1) for _, options in requests]
    stats = house.stats()
    assert (stats.num_engine_restarts, stats.engine.num_failed) == (0, 0)
    assert "out of memory" not in house.log.read_text().lower()
    used, total = device_memory_bytes()
    record(
        "G02",
        longest_prompt=len(requests[0][0]),
        sequences=sum(options.get("n", 1) for _, options in requests),
        free_bytes=total - used,
        free_share=round(1 - used / total, 4),
    )
    assert ON_CPU or total - used >= min(0.02 * total, GIBIBYTE)
