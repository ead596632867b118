from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from kernel_checks import TOLERANCE, assert_close, poisoned

from kernels.launch import LoraLaunch, lora_launch
from kernels.lora import LoraTokens, lora_add, lora_add_reference, lora_add_triton, padded_rank

if TYPE_CHECKING:
    from collections.abc import Sequence

SMALL = LoraLaunch(block_t=16, block_k=32, block_n=16, max_block_r=16, splits=3, num_warps=2, num_stages=1)


class Case:
    """A random batch, and what must come of it, in float64."""

    def __init__(
        self,
        slots: Sequence[int],
        parts: Sequence[int],
        k: int,
        rank: int,
        num_slots: int,
        dtype: torch.dtype,
    ) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*size: int) -> torch.Tensor:
            return torch.randn(size, generator=generator).to(dtype)

        self.parts = list(parts)
        self.slots = torch.tensor(slots, dtype=torch.int32)
        self.x, self.y = draw(len(slots), k), draw(len(slots), sum(parts))
        self.a = draw(num_slots, len(parts) * rank, k) / k**0.5
        self.b = draw(num_slots, sum(parts), rank) / rank**0.5
        self.expected = self.y.double()
        for token, slot in enumerate(slots):
            if slot:
                inner = (self.a[slot - 1].double() @ self.x[token].double()).view(len(parts), rank)
                matrices = self.b[slot - 1].double().split(self.parts)
                change = [matrix @ each for matrix, each in zip(matrices, inner, strict=True)]
                self.expected[token] += torch.cat(change)

    def run_triton(self, device: torch.device, launch: LoraLaunch) -> torch.Tensor:
        x, y, a, b, slots = (each.to(device) for each in (self.x, self.y.clone(), self.a, self.b, self.slots))
        with poisoned():
            assert lora_add_triton(x, y, a, b, self.parts, slots, launch) is y
        return y


def check(actual: torch.Tensor, case: Case) -> None:
    tolerance = 4 * TOLERANCE[actual.dtype]
    torch.testing.assert_close(actual.double().cpu(), case.expected, rtol=tolerance, atol=tolerance)


CASES = [
    ([1], [40], 64, 16, 1),
    ([0, 2, 1, 2, 0, 3, 1], [48, 16, 16], 100, 16, 3),
    ([2] * 17 + [0] * 16 + [1, 3] * 3, [33, 7], 70, 32, 3),
    ([0] * 5, [24], 32, 16, 2),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("slots", "parts", "k", "rank", "num_slots"), CASES)
def test_matches_the_formula(
    device: torch.device,
    slots: list[int],
    parts: list[int],
    k: int,
    rank: int,
    num_slots: int,
    dtype: torch.dtype,
) -> None:
    case = Case(slots, parts, k, rank, num_slots, dtype)
    check(case.run_triton(device, SMALL), case)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("rank", [16, 64, 256])
@pytest.mark.parametrize("num_tokens", [1, 32, 700])
def test_matches_the_formula_at_real_sizes(num_tokens: int, rank: int) -> None:
    slots = torch.randint(0, 5, (num_tokens,), generator=torch.Generator().manual_seed(1)).tolist()
    case = Case(slots, [4096, 1024, 1024], 4096, rank, 4, torch.bfloat16)
    check(case.run_triton(torch.device("cuda"), lora_launch(2)), case)


def test_a_token_without_a_slot_stays_bit_by_bit(device: torch.device) -> None:
    case = Case([0, 1, 0, 2], [24, 8], 48, 16, 2, torch.float16)
    y = case.run_triton(device, SMALL).cpu()
    assert y[0].equal(case.y[0])
    assert y[2].equal(case.y[2])


@pytest.mark.parametrize("others", [[0] * 24, [3] * 24, [1, 2, 0, 3] * 6])
def test_a_token_does_not_depend_on_its_neighbours(device: torch.device, others: list[int]) -> None:
    place = 17
    others[place] = 2
    first = Case([2] * 24, [32, 16], 96, 16, 3, torch.float32)
    second = Case(others, [32, 16], 96, 16, 3, torch.float32)
    second.x += 1
    second.x[place] = first.x[place]
    assert first.run_triton(device, SMALL)[place].equal(second.run_triton(device, SMALL)[place])


def test_reads_and_writes_rows_of_any_stride(device: torch.device) -> None:
    case = Case([1, 0, 2], [24], 48, 16, 2, torch.float32)
    x = torch.full((3, 60), torch.nan, device=device)
    y = torch.full((3, 40), torch.nan, device=device)
    x[:, :48], y[:, :24] = case.x.to(device), case.y.to(device)
    a, b, slots = (each.to(device) for each in (case.a, case.b, case.slots))
    check(lora_add_triton(x[:, :48], y[:, :24], a, b, case.parts, slots, SMALL), case)
    assert y[:, 24:].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("slots", "parts", "k", "rank", "num_slots"), CASES)
def test_reference_matches_the_formula(
    slots: list[int], parts: list[int], k: int, rank: int, num_slots: int, dtype: torch.dtype
) -> None:
    case = Case(slots, parts, k, rank, num_slots, dtype)
    y = lora_add_reference(case.x, case.y, case.a, case.b, case.parts, LoraTokens.of(case.slots))
    assert_close(y, case.expected)


def test_the_cpu_takes_the_reference() -> None:
    case = Case([1, 2, 0], [24], 48, 16, 2, torch.float32)
    tokens = LoraTokens.of(case.slots)
    expected = lora_add_reference(case.x, case.y.clone(), case.a, case.b, case.parts, tokens)
    assert lora_add(case.x, case.y, case.a, case.b, case.parts, tokens).equal(expected)


def test_ranks_are_padded_to_what_a_matrix_instruction_takes() -> None:
    assert [padded_rank(rank) for rank in (1, 16, 17, 64, 100)] == [16, 16, 32, 64, 128]
