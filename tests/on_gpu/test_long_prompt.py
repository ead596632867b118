"""A long prompt arrives while others are answered."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import pytest
from checked_device import SIZES, on_gpu, record
from decoding_streams import DecodingStreams
from questions import random_prompt

from pagewire import Client

if TYPE_CHECKING:
    from on_gpu.conftest import Device

pytestmark = [*on_gpu, pytest.mark.check("G04")]

CALM_S = 1.5
"""How long the others decode before."""
MAX_GAP = 5
"""Longest gap between tokens, by the median one of the time before: the check's limit."""
MIN_SHARE = 0.3
"""Of the throughput before: the check's limit."""
NUM_LONGEST = 5
"""Gaps that are recorded, at most one in APART_S seconds."""
APART_S = 0.02


@pytest.mark.parametrize("flags", [*SIZES.patient, ()], ids=lambda flags: " ".join(flags) or "default")
def test_decodes_go_on_beside_a_long_prompt(device: Device, flags: tuple[str, ...]) -> None:
    """The prompt is answered, and the others go on meanwhile; how well they do is measured.

    Small chunks leave the others more of their pace; by default the prompt is computed in the fewest steps.
    `meets_row` says whether the longest gap and the throughput are within the check's limits. It is not
    asserted: a step that joins a chunk with decodes takes longer the longer the chunk's context is.
    """
    house = device.serve(*flags)
    prompts = [random_prompt(50, SIZES.vocab_size, "decoder", number) for number in range(SIZES.num_streams)]
    streams = DecodingStreams(house.grpc_target, prompts, SIZES.context_len - 50)
    prompt = random_prompt(SIZES.long_prompt_len, SIZES.vocab_size, "long", *flags)
    with Client(house.grpc_target, timeout=300) as client, streams.decoding():
        assert client.is_ready()  # and connected
        time.sleep(CALM_S)
        begin_s = time.monotonic()
        response = client.generate(prompt, max_tokens=1, ignore_eos=True)
        end_s = time.monotonic()
        time.sleep(0.2)
    assert response.usage.num_prompt_tokens == SIZES.long_prompt_len
    before = sum(streams.num_tokens(begin_s - CALM_S, begin_s)) / CALM_S
    during = sum(streams.num_tokens(begin_s, end_s)) / (end_s - begin_s)
    calm_gaps_s = [gap_s for gap_s, _ in streams.gaps(begin_s - CALM_S, begin_s)]
    gaps = streams.gaps(begin_s, end_s)
    gaps_s = [gap_s for gap_s, _ in gaps]
    median_s = statistics.median(calm_gaps_s)
    record(
        "G04",
        flags=flags,
        prompt_tokens=SIZES.long_prompt_len,
        decoders=len(prompts),
        prefill_s=round(end_s - begin_s, 3),
        median_gap_before_ms=round(median_s * 1e3, 3),
        median_gap_during_ms=round(statistics.median(gaps_s) * 1e3, 3),
        longest_gap_ms=round(max(gaps_s) * 1e3, 3),
        longest_gap_by_median=round(max(gaps_s) / median_s, 2),
        longest_gap_by_median_during=round(max(gaps_s) / statistics.median(gaps_s), 2),
        longest_gaps_ms_at_ms=longest(gaps, begin_s),
        tokens_per_s_before=round(before, 1),
        tokens_per_s_during=round(during, 1),
        throughput_share=round(during / before, 3),
        limits={"longest_gap_by_median": MAX_GAP, "throughput_share": MIN_SHARE},
        meets_row=max(gaps_s) <= MAX_GAP * median_s and during >= MIN_SHARE * before,
    )
    assert all(streams.num_tokens(begin_s, end_s))


def longest(gaps: list[tuple[float, float]], begin_s: float) -> list[tuple[float, float]]:
    """The longest gaps, and how long after the prompt was sent each ended, in milliseconds."""
    found: list[tuple[float, float]] = []
    for gap_s, at_s in sorted(gaps, reverse=True):
        if all(abs(at_s - other_s) > APART_S for _, other_s in found):
            found.append((gap_s, at_s))
        if len(found) == NUM_LONGEST:
            break
    return [(round(gap_s * 1e3, 2), round((at_s - begin_s) * 1e3, 1)) for gap_s, at_s in found]
