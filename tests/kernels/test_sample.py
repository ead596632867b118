from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch

from kernels.sample import TILE, sample, sample_reference, sample_triton
from kernels.uniform import seed_keys, uniform_reference

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_TOKENS = 12
NEGATIVE_INFINITY = float("-inf")


@dataclass
class Tables:
    """State by row, as the engine keeps it."""

    temperatures: torch.Tensor
    keys: torch.Tensor
    num_tokens: torch.Tensor
    token_table: torch.Tensor

    @staticmethod
    def make(temperatures: list[float], device: torch.device, seed: int = 0) -> Tables:
        num_rows = len(temperatures)
        return Tables(
            torch.tensor(temperatures, dtype=torch.float32, device=device),
            seed_keys([seed + 1000 * row for row in range(num_rows)], device),
            torch.arange(num_rows, device=device) % (MAX_TOKENS - 1) + 1,
            torch.full((num_rows, MAX_TOKENS), -5, dtype=torch.int32, device=device),
        )

    def arguments(self) -> tuple[torch.Tensor, ...]:
        return self.temperatures, self.keys, self.num_tokens, self.token_table


def exact_draw(logits: torch.Tensor, temperature: float, number: float) -> int:
    """The inverse of the cumulative distribution, in float64."""
    if temperature == 0:
        return int(logits.argmax())
    cumulative = torch.softmax(logits.double() / temperature, -1).cumsum(-1)
    return int(torch.searchsorted(cumulative, torch.tensor([number]), right=True)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("vocab", [1, 300, TILE, 2 * TILE + 77])
def test_each_row_gets_its_own_draw(device: torch.device, vocab: int, dtype: torch.dtype) -> None:
    temperatures = [0.0, 1.0, 0.3, 5.0, 0.0, 1.0]
    tables = Tables.make(temperatures, device)
    rows = [5, 0, -1, 2, 3, 1]
    logits = (2 * torch.randn(len(rows), vocab)).to(dtype)
    numbers = uniform_reference(tables.keys, tables.num_tokens).tolist()
    before = tables.num_tokens.tolist()
    token_ids = sample_triton(
        logits.to(device), torch.tensor(rows, device=device), *tables.arguments()
    ).tolist()
    for seq, row in enumerate(rows):
        if row < 0:
            continue
        assert token_ids[seq] == exact_draw(logits[seq].float(), temperatures[row], numbers[row])
        assert tables.token_table[row, before[row]] == token_ids[seq]
        assert tables.num_tokens[row] == before[row] + 1
    assert tables.num_tokens[4] == before[4]
    assert (tables.token_table[4] == -5).all()


@pytest.mark.parametrize("vocab", [3, 2 * TILE + 77])
def test_the_cpu_draws_the_same(device: torch.device, vocab: int) -> None:
    temperatures = [0.0, 1.0, 0.5, 2.0] * 8
    logits = 3 * torch.randn(32, vocab)
    rows = torch.randperm(32)
    ours, theirs = Tables.make(temperatures, torch.device("cpu")), Tables.make(temperatures, device)
    expected = sample_reference(logits, rows, *ours.arguments())
    actual = sample_triton(logits.to(device), rows.to(device), *theirs.arguments())
    assert actual.tolist() == expected.tolist()
    assert torch.equal(theirs.token_table.cpu(), ours.token_table)
    assert torch.equal(theirs.num_tokens.cpu(), ours.num_tokens)


def check_bad_rows(compute: Callable[..., torch.Tensor], device: torch.device) -> None:
    vocab = TILE + 5
    logits = torch.randn(8, vocab)
    logits[0, vocab - 1] = float("nan")
    logits[1, 3] = float("inf")
    logits[2] = NEGATIVE_INFINITY
    logits[3, : vocab - 1] = NEGATIVE_INFINITY
    logits[4:8] = logits[0:4]
    tables = Tables.make([0.0] * 4 + [1.0] * 4, device)
    token_ids = compute(logits.to(device), torch.arange(8, device=device), *tables.arguments())
    assert token_ids.tolist() == [-1, -1, -1, vocab - 1] * 2
    appended = [int(tables.token_table[row, row + 1]) for row in range(8)]
    assert appended == [0, 0, 0, vocab - 1] * 2


def test_rows_without_numbers_fail_alone(device: torch.device) -> None:
    check_bad_rows(sample_triton, device)


def test_rows_without_numbers_fail_alone_on_the_cpu() -> None:
    check_bad_rows(sample_reference, torch.device("cpu"))
    check_bad_rows(sample, torch.device("cpu"))


def test_ties_go_to_the_lowest_token(device: torch.device) -> None:
    logits = torch.zeros(1, 2 * TILE, device=device)
    logits[0, [TILE - 1, TILE, 2 * TILE - 1]] = 4.0
    tables = Tables.make([0.0], device)
    rows = torch.zeros(1, dtype=torch.int64, device=device)
    assert sample_triton(logits, rows, *tables.arguments()).tolist() == [TILE - 1]


def test_draws_follow_the_distribution(device: torch.device) -> None:
    """Of one token in two tiles each, by the numbers of many seeds."""
    num_draws = 200
    logits = torch.full((num_draws, TILE + 1), NEGATIVE_INFINITY)
    logits[:, 7], logits[:, TILE] = 0.0, 1.0
    tables = Tables.make([1.0] * num_draws, device)
    token_ids = sample_triton(logits.to(device), torch.arange(num_draws, device=device), *tables.arguments())
    share = (token_ids == TILE).double().mean().item()
    assert set(token_ids.tolist()) == {7, TILE}
    assert abs(share - 0.731) < 0.1
