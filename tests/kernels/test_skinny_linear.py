from __future__ import annotations

import pytest
import torch
import triton
from kernel_checks import TOLERANCE, poisoned

from kernels.arrival import arrival_counters
from kernels.launch import SkinnyLaunch, architecture, skinny_launch
from kernels.skinny_linear import skinny_linear_triton, takes
from kernels.vector_linear import vector_linear_reference

WHOLE = SkinnyLaunch(block_m=16, block_n=16, block_k=32, splits=1, num_warps=4, num_stages=3)
SPLIT = SkinnyLaunch(block_m=16, block_n=16, block_k=32, splits=3, num_warps=4, num_stages=3)
NARROW = SkinnyLaunch(block_m=8, block_n=32, block_k=16, splits=2, num_warps=4, num_stages=3)
LAUNCHES = pytest.mark.parametrize("launch", [WHOLE, SPLIT, NARROW], ids=["whole", "split", "narrow"])
GATED = pytest.mark.parametrize("is_gated", [False, True], ids=["plain", "gated"])
DTYPES = [torch.float16, torch.bfloat16]

SHAPES_8B = [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)]
SHAPES_0_6B = [(4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072), (151936, 1024)]


def formula(x: torch.Tensor, weight: torch.Tensor, is_gated: bool) -> torch.Tensor:
    y = torch.cat([x.double() @ rows.double().T for rows in weight.split(16384)], -1)
    if not is_gated:
        return y.cpu()
    gate, up = y.chunk(2, -1)
    return (gate / (1 + (-gate).exp()) * up).cpu()


def make(
    m: int, n: int, k: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator(device).manual_seed(m * n + k)
    x = torch.randn(m, k, generator=generator, device=device).to(dtype)
    weight = torch.randn(n, k, generator=generator, device=device).to(dtype)
    return x, weight / k**0.5


def check(x: torch.Tensor, weight: torch.Tensor, is_gated: bool, launch: SkinnyLaunch) -> None:
    """Compare with the formula, twice: the counters must be as they were, and the bits too."""
    expected = formula(x, weight, is_gated)
    out = torch.full(expected.shape, float("nan"), dtype=x.dtype, device=x.device)
    with poisoned():
        assert skinny_linear_triton(x, weight, is_gated, launch, out) is out
        again = skinny_linear_triton(x, weight, is_gated, launch)
    tolerance = 4 * TOLERANCE[x.dtype]
    torch.testing.assert_close(out.double().cpu(), expected, rtol=tolerance, atol=tolerance)
    assert again.equal(out)
    assert not arrival_counters(x.device).any()


@GATED
@LAUNCHES
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "n", "k"), [(2, 2, 96), (3, 30, 96), (8, 64, 256), (16, 70, 128), (5, 32, 32)])
def test_matches_the_formula(
    device: torch.device, m: int, n: int, k: int, dtype: torch.dtype, launch: SkinnyLaunch, is_gated: bool
) -> None:
    if dtype == torch.bfloat16 and triton.knobs.runtime.interpret:
        pytest.skip("the interpreter multiplies bit patterns of bfloat16")
    x, weight = make(min(m, launch.block_m), n, k, dtype, device)
    check(x, weight, is_gated, launch)


@GATED
@LAUNCHES
def test_a_row_does_not_depend_on_the_others(
    device: torch.device, launch: SkinnyLaunch, is_gated: bool
) -> None:
    x, weight = make(5, 30, 96, torch.float16, device)
    alone = skinny_linear_triton(x, weight, is_gated, launch)
    others = x.clone()
    others[[0, 1, 3, 4]] = float("nan")
    assert skinny_linear_triton(others, weight, is_gated, launch)[2].equal(alone[2])
    assert skinny_linear_triton(x[:3], weight, is_gated, launch).equal(alone[:3])


@LAUNCHES
def test_an_output_does_not_depend_on_the_others(device: torch.device, launch: SkinnyLaunch) -> None:
    x, weight = make(5, 30, 96, torch.float16, device)
    alone = skinny_linear_triton(x, weight, False, launch)
    others = torch.full_like(weight, float("nan"))
    others[29] = weight[29]
    assert skinny_linear_triton(x, others, False, launch)[:, 29].equal(alone[:, 29])


@LAUNCHES
def test_memory_around_the_tensors_is_left_alone(device: torch.device, launch: SkinnyLaunch) -> None:
    """What lies behind x and the weight is not used, and what lies behind y is not written."""
    x, weight = make(3, 30, 96, torch.float16, device)
    around = [
        torch.full((rows, columns), float("nan"), dtype=x.dtype, device=device)
        for rows, columns in ((16, 96), (64, 96), (16, 30))
    ]
    around[0][:3], around[1][:30] = x, weight
    out = skinny_linear_triton(around[0][:3], around[1][:30], False, launch, around[2][:3])
    assert out.equal(skinny_linear_triton(x, weight, False, launch))
    assert around[2][3:].isnan().all()


@GATED
def test_reference_matches_the_formula(is_gated: bool) -> None:
    x, weight = torch.randn(3, 48, dtype=torch.float64), torch.randn(10, 48, dtype=torch.float64)
    torch.testing.assert_close(vector_linear_reference(x, weight, is_gated), formula(x, weight, is_gated))


def test_a_cpu_has_its_own_ways() -> None:
    assert not takes(torch.randn(4, 4096).half(), torch.randn(64, 4096).half())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("m", [2, 3, 4, 8, 9, 16])
@pytest.mark.parametrize("shape", SHAPES_8B + SHAPES_0_6B, ids=str)
def test_matches_the_formula_at_real_sizes(shape: tuple[int, int], m: int) -> None:
    device = torch.device("cuda")
    launch = skinny_launch(architecture(device), m, *shape)
    if launch is None:
        pytest.skip("left to the matrix product")
    x, weight = make(m, *shape, torch.bfloat16, device)
    check(x, weight, False, launch)
    check(x, weight, True, launch)
