"""Workloads: the same requests for the same seed, of the lengths that were asked for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.bench import lengths, workloads_of
from cli.flags import UsageError
from cli.workload import FIRST_ID, PRESETS, Workload, plan_requests

LENGTHS = st.tuples(st.integers(1, 40), st.integers(0, 40)).map(lambda pair: (pair[0], sum(pair)))


@settings(max_examples=50)
@given(st.integers(1, 20), LENGTHS, LENGTHS, st.integers(0, 30), st.integers(2, 2000), st.integers(0, 9))
def test_lengths_and_ids(
    num_requests: int,
    prompt_lens: tuple[int, int],
    output_lens: tuple[int, int],
    prefix_len: int,
    vocab_size: int,
    seed: int,
) -> None:
    workload = Workload(
        num_requests=num_requests,
        prompt_lens=prompt_lens,
        output_lens=output_lens,
        prefix_len=prefix_len,
        seed=seed,
    )
    requests = plan_requests(workload, vocab_size)
    assert len(requests) == num_requests
    first = min(FIRST_ID, vocab_size - 1)
    for request in requests:
        assert prompt_lens[0] <= len(request.token_ids) - prefix_len <= prompt_lens[1]
        assert output_lens[0] <= request.output_len <= output_lens[1]
        assert all(first <= token_id < vocab_size for token_id in request.token_ids)
        assert request.token_ids[:prefix_len] == requests[0].token_ids[:prefix_len]
    assert plan_requests(workload, vocab_size) == requests


def test_workloads_share_no_prompts() -> None:
    few, many = (plan_requests(Workload(num_requests=number), 50_000) for number in (3, 4))
    assert few[0].token_ids[:16] != many[0].token_ids[:16]


def test_a_preset_keeps_its_name_and_takes_a_seed() -> None:
    workloads = workloads_of("serve", {"preset": ("s1", "pfx"), "seed": 7})
    assert list(workloads) == ["s1", "pfx"]
    assert workloads["pfx"].prefix_len == PRESETS["pfx"].prefix_len == 4096
    assert workloads["s1"].seed == 7


def test_a_preset_is_not_described_too() -> None:
    with pytest.raises(UsageError, match=r"--workload: .*concurrency"):
        workloads_of("serve", {"preset": ("s1",), "concurrency": 3})


@pytest.mark.parametrize(
    ("kind", "values", "concurrency", "num_requests"),
    [
        ("serve", {}, 32, 128),
        ("latency", {}, 1, 5),
        ("latency", {"concurrency": 8}, 8, 40),
        ("throughput", {"num_requests": 64}, 64, 64),
        ("throughput", {}, 128, 128),
    ],
)
def test_defaults_of_each_kind(
    kind: str, values: dict[str, int], concurrency: int, num_requests: int
) -> None:
    workload = workloads_of(kind, values)[kind]
    assert (workload.concurrency, workload.num_requests) == (concurrency, num_requests)


@pytest.mark.parametrize(("text", "pair"), [("512", (512, 512)), ("1k", (1000, 1000)), ("5-9", (5, 9))])
def test_lengths(text: str, pair: tuple[int, int]) -> None:
    assert lengths(text) == pair


@pytest.mark.parametrize("text", ["", "0", "9-5", "a-b", "1-2-3"])
def test_what_is_no_length(text: str) -> None:
    with pytest.raises(ValueError, match=r"range"):
        lengths(text)
