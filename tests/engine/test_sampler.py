from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.messages import SamplingParams
from engine.sampler import Sampler, SamplingRow

VOCAB = 40


def params(**options: object) -> SamplingParams:
    return SamplingParams(max_tokens=100, **options)  # type: ignore[arg-type]


def sample(
    logits: torch.Tensor, all_params: list[SamplingParams], histories: list[list[int]] | None = None
) -> list[int]:
    """Sample each row of logits; histories are prompts of two tokens and then output."""
    histories = histories or [[0, 1]] * len(all_params)
    table = torch.full((len(histories), 64), 7)
    for row, history in enumerate(histories):
        table[row, : len(history)] = torch.tensor(history)
    rows = [
        SamplingRow(each, row, len(histories[row]), min(2, len(histories[row])))
        for row, each in enumerate(all_params)
    ]
    token_ids, _ = Sampler(table).sample(logits.clone(), rows)
    result: list[int] = token_ids.tolist()
    return result


def random_logits(num_rows: int, seed: int = 0, vocab: int = VOCAB) -> torch.Tensor:
    return 3 * torch.randn(num_rows, vocab, generator=torch.Generator().manual_seed(seed))


def draw_many(logits: torch.Tensor, num_draws: int, **options: object) -> Counter[int]:
    """Draw with the seeds 0 to num_draws - 1."""
    batch = logits.expand(num_draws, -1)
    return Counter(sample(batch, [params(seed=seed, **options) for seed in range(num_draws)]))


def excess(counts: Counter[int], probs: list[float]) -> float:
    """Return how many deviations chi-square lies above its mean, tokens of low mass put together."""
    total = counts.total()
    cells = [(counts[token], prob * total) for token, prob in enumerate(probs) if prob * total >= 5]
    rest = (
        total - sum(observed for observed, _ in cells),
        total - sum(expected for _, expected in cells),
    )
    if rest[1] >= 5:
        cells.append(rest)
    statistic = sum((observed - expected) ** 2 / expected for observed, expected in cells)
    freedom = max(1, len(cells) - 1)
    return (statistic - freedom) / math.sqrt(2 * freedom)


def filtered_probs(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float
) -> list[float]:
    """The distribution in plain Python: temperature, then min_p, top_k and top_p."""
    peak = max(logits)
    weights = [math.exp((logit - peak) / temperature) for logit in logits]
    kept = [token for token, weight in enumerate(weights) if weight >= min_p]
    kept.sort(key=lambda token: -weights[token])
    if top_k:
        kept = kept[:top_k]
    total = sum(weights[token] for token in kept)
    reached, nucleus = 0.0, []
    for token in kept:
        if reached >= top_p * total:
            break
        nucleus.append(token)
        reached += weights[token]
    return [weights[token] / reached if token in nucleus else 0.0 for token in range(len(weights))]


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "min_p"),
    [
        (1.0, 0, 1.0, 0.0),
        (0.6, 0, 1.0, 0.0),
        (2.0, 0, 1.0, 0.0),
        (1.0, 5, 1.0, 0.0),
        (1.0, 0, 0.8, 0.0),
        (1.0, 0, 1.0, 0.1),
        (1.5, 10, 0.9, 0.02),
        (2.0, 6, 0.5, 0.0),
        (1.0, VOCAB + 5, 0.999, 0.0),
    ],
)
def test_draws_follow_the_filtered_distribution(
    temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = random_logits(1)
    expected = filtered_probs(logits[0].tolist(), temperature, top_k, top_p, min_p)
    counts = draw_many(logits, 4000, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    assert {token for token in counts if expected[token] == 0.0} == set()
    assert excess(counts, expected) < 3


def test_draws_at_successive_positions_are_independent() -> None:
    logits = torch.zeros(1, 8)
    table = torch.zeros(1, 1, dtype=torch.int64)
    sampler = Sampler(table)
    tokens = [
        sampler.sample(logits, [SamplingRow(params(seed=5), 0, position, 0)])[0].tolist()[0]
        for position in range(4000)
    ]
    assert excess(Counter(tokens), [1 / 8] * 8) < 3
    pairs = Counter(8 * first + second for first, second in zip(tokens[::2], tokens[1::2], strict=True))
    assert excess(pairs, [1 / 64] * 64) < 3


@pytest.mark.parametrize("vocab", [3, 300, 5000])
def test_top_p_reaches_beyond_its_first_candidates(vocab: int) -> None:
    logits = torch.zeros(1, vocab)
    logits[0, : vocab // 2] = 1.0
    counts = draw_many(logits, 500, top_p=0.99)
    assert max(counts) >= vocab // 2


def test_tokens_that_tie_at_the_edge_stay_together() -> None:
    logits = torch.tensor([[2.0, 2.0, 2.0, 0.0]])
    assert set(draw_many(logits, 100, top_k=1)) == {0, 1, 2}
    assert set(draw_many(logits, 100, top_p=0.1)) == {0, 1, 2}


option_sets = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.01, 0.7, 1.0, 2.0]),
        "top_k": st.sampled_from([0, 1, 3, 39]),
        "top_p": st.sampled_from([0.05, 0.9, 1.0]),
        "min_p": st.sampled_from([0.0, 0.2]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "presence_penalty": st.sampled_from([0.0, 1.5]),
        "logit_bias": st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100, width=32), max_size=3),
        "seed": st.integers(-(2**63), 2**63 - 1),
        "num_logprobs": st.sampled_from([None, 3]),
    }
)
histories = st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=12)


@given(st.lists(st.tuples(option_sets, histories), min_size=1, max_size=6), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=60)
def test_a_row_does_not_depend_on_its_batch(rows, random) -> None:  # type: ignore[no-untyped-def]
    logits = random_logits(len(rows), seed=random.randrange(1000))
    alone = [
        sample(logits[index : index + 1], [params(**options)], [history])[0]
        for index, (options, history) in enumerate(rows)
    ]
    order = list(range(len(rows)))
    random.shuffle(order)
    together = sample(
        logits[order], [params(**rows[index][0]) for index in order], [rows[index][1] for index in order]
    )
    assert together == [alone[index] for index in order]


def test_seed_wraps_instead_of_overflowing() -> None:
    logits = random_logits(1)
    assert sample(logits, [params(seed=2**63)]) == sample(logits, [params(seed=-(2**63))])


def test_greedy_is_the_first_maximum() -> None:
    logits = random_logits(3)
    logits[1, [4, 9]] = 50.0
    assert sample(logits, [params(temperature=0.0)] * 3) == [
        int(logits[0].argmax()),
        4,
        int(logits[2].argmax()),
    ]


def test_a_tiny_temperature_is_greedy() -> None:
    logits = random_logits(1) * 1e4
    assert set(draw_many(logits, 20, temperature=1e-6)) == {int(logits.argmax())}


@given(
    st.lists(st.integers(0, 7), min_size=2, max_size=20),
    st.sampled_from([0.5, 1.0, 1.7, 10.0]),
    st.sampled_from([-2.0, 0.0, 0.4]),
    st.sampled_from([-2.0, 0.0, 0.3]),
    st.integers(0, 1000),
)
@settings(deadline=None, max_examples=100)
def test_penalties_match_plain_python(
    history: list[int], repetition: float, presence: float, frequency: float, seed: int
) -> None:
    logits = random_logits(1, seed=seed, vocab=8)
    output = Counter(history[2:])
    expected = []
    for token, logit in enumerate(logits[0].tolist()):
        if token in history:
            logit = logit / repetition if logit > 0 else logit * repetition
        expected.append(logit - frequency * output[token] - presence * (token in output))
    best = sorted(expected)
    if best[-1] - best[-2] < 1e-4:
        return
    options = params(
        temperature=0.0,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
    )
    beside = params(temperature=0.0, repetition_penalty=3.0)
    chosen = sample(logits.expand(2, -1), [beside, options], [[0, 1, 5], history])
    assert chosen[1] == expected.index(best[-1])


def test_logit_bias_is_added() -> None:
    logits = random_logits(2)
    options = [params(temperature=0.0, logit_bias={11: 100.0}), params(temperature=0.0)]
    assert sample(logits, options) == [11, int(logits[1].argmax())]


def test_min_tokens_holds_back_ending_tokens() -> None:
    logits = torch.tensor([[5.0, 4.0, 3.0, 0.0]] * 3)
    options = params(temperature=0.0, min_tokens=2, eos_token_ids=(0,), stop_token_ids=(1,))
    prompts_and_outputs = [[3, 3], [3, 3, 2], [3, 3, 2, 2]]
    assert sample(logits, [options] * 3, prompts_and_outputs) == [2, 2, 0]


@pytest.mark.check("R14")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_row_fails_alone(bad: float, temperature: float) -> None:
    logits = random_logits(4)
    all_params = [
        params(
            seed=seed, temperature=temperature, top_p=0.9, num_logprobs=2, min_tokens=3, eos_token_ids=(6,)
        )
        for seed in range(4)
    ]
    healthy = sample(logits, all_params)
    logits[1, 6] = bad
    logits[2] = -math.inf
    assert sample(logits, all_params) == [healthy[0], -1, -1, healthy[3]]


def test_logprobs_are_those_of_the_raw_distribution() -> None:
    logits = random_logits(3)
    raw = torch.log_softmax(logits.double(), -1)
    best = raw.argsort(-1, descending=True)
    forced = int(best[0, 6])
    rows = [
        SamplingRow(params(temperature=0.1, logit_bias={forced: 100.0}, num_logprobs=3), 0, 2, 2),
        SamplingRow(params(temperature=0.0), 1, 2, 2),
        SamplingRow(params(temperature=0.0, num_logprobs=0), 2, 2, 2),
    ]
    token_ids, logprobs = Sampler(torch.zeros(3, 4, dtype=torch.int64)).sample(logits.clone(), rows)
    assert token_ids.tolist() == [forced, int(best[1, 0]), int(best[2, 0])]
    first, second, third = logprobs
    assert first is not None
    assert (first.token_id, first.rank) == (forced, 7)
    assert first.logprob == pytest.approx(float(raw[0, forced]), abs=1e-5)
    assert [token for token, _ in first.top] == best[0, :3].tolist()
    assert [logprob for _, logprob in first.top] == pytest.approx(raw[0, best[0, :3]].tolist(), abs=1e-5)
    assert second is None
    assert third is not None
    assert (third.rank, third.top) == (1, [])
