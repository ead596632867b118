"""A long prompt arrives while others are answered."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from checked_device import SIZES, on_gpu, record
from questions import random_prompt

from pagewire import AsyncClient

if TYPE_CHECKING:
    from on_gpu.conftest import Device

pytestmark = [*on_gpu, pytest.mark.check("G04")]

CALM_S = 1.5
"""How long the others decode before."""
MAX_GAP = 5
"""Longest gap between tokens, by the median one of the time before: the check's limit."""
MIN_SHARE = 0.3
"""Of the throughput before: the check's limit."""


@dataclass
class Decoder:
    """A stream, and when its tokens came."""

    ticks: list[tuple[float, int]] = field(default_factory=list)
    """Times, with the number of tokens that came then."""
    has_begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, client: AsyncClient, number: int) -> None:
        prompt = random_prompt(50, SIZES.vocab_size, "decoder", number)
        room = SIZES.context_len - len(prompt)
        async with client.stream(prompt, max_tokens=room, ignore_eos=True, temperature=0.0) as stream:
            async for event in stream:
                for choice in event.delta.choices:
                    self.ticks.append((time.perf_counter(), choice.num_tokens))
                    self.has_begun.set()

    def num_tokens(self, begin_s: float, end_s: float) -> int:
        return sum(count for tick_s, count in self.ticks if begin_s < tick_s <= end_s)

    def gaps_s(self, begin_s: float, end_s: float) -> list[float]:
        """Of the deltas that came in this time, to those before them."""
        times = [tick_s for tick_s, _ in self.ticks]
        pairs = itertools.pairwise(times)
        return [after - before for before, after in pairs if begin_s < after and before <= end_s]


@pytest.mark.parametrize("flags", [*SIZES.patient, ()], ids=lambda flags: " ".join(flags) or "default")
async def test_decodes_go_on_beside_a_long_prompt(device: Device, flags: tuple[str, ...]) -> None:
    """The prompt is answered, and the others go on meanwhile; how well they do is measured.

    Small chunks leave the others more of their pace; by default the prompt is computed in the fewest steps.
    `meets_row` says whether the longest gap and the throughput are within the check's limits. It is not
    asserted: a step that joins a chunk with decodes takes as long as the host needs to launch its kernels.
    """
    house = await asyncio.to_thread(device.serve, *flags)
    decoders = [Decoder() for _ in range(SIZES.num_streams)]
    async with AsyncClient(house.grpc_target, timeout=300) as client:
        tasks = [asyncio.create_task(decoder.run(client, number)) for number, decoder in enumerate(decoders)]
        await asyncio.gather(*(decoder.has_begun.wait() for decoder in decoders))
        await asyncio.sleep(CALM_S)
        begin_s = time.perf_counter()
        prompt = random_prompt(SIZES.long_prompt_len, SIZES.vocab_size, "long", *flags)
        response = await client.generate(prompt, max_tokens=1, ignore_eos=True)
        end_s = time.perf_counter()
        await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends
    assert response.usage.num_prompt_tokens == SIZES.long_prompt_len
    before = sum(decoder.num_tokens(begin_s - CALM_S, begin_s) for decoder in decoders) / CALM_S
    during = sum(decoder.num_tokens(begin_s, end_s) for decoder in decoders) / (end_s - begin_s)
    calm_gaps_s = [gap for decoder in decoders for gap in decoder.gaps_s(begin_s - CALM_S, begin_s)]
    gaps_s = [gap for decoder in decoders for gap in decoder.gaps_s(begin_s, end_s)]
    median_s = statistics.median(calm_gaps_s)
    record(
        "G04",
        flags=flags,
        prompt_tokens=SIZES.long_prompt_len,
        decoders=len(decoders),
        prefill_s=round(end_s - begin_s, 3),
        median_gap_before_ms=round(median_s * 1e3, 3),
        median_gap_during_ms=round(statistics.median(gaps_s) * 1e3, 3),
        longest_gap_ms=round(max(gaps_s) * 1e3, 3),
        longest_gap_by_median=round(max(gaps_s) / median_s, 2),
        tokens_per_s_before=round(before, 1),
        tokens_per_s_during=round(during, 1),
        throughput_share=round(during / before, 3),
        limits={"longest_gap_by_median": MAX_GAP, "throughput_share": MIN_SHARE},
        meets_row=max(gaps_s) <= MAX_GAP * median_s and during >= MIN_SHARE * before,
    )
    assert all(decoder.num_tokens(begin_s, end_s) > 0 for decoder in decoders)
