from __future__ import annotations

import pytest

from kernels.arrival import MAX_NUM_GROUPS
from kernels.launch import (
    decode_launch,
    decode_splits,
    prefill_launch,
    prefill_programs,
    row_launch,
    skinny_launch,
)


def test_wide_rows_get_more_warps() -> None:
    warps = [row_launch(num_columns).num_warps for num_columns in (64, 512, 2048, 4096, 16384)]
    assert warps == [1, 1, 4, 8, 16]


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256, 512])
@pytest.mark.parametrize("element_size", [2, 4])
@pytest.mark.parametrize("arch", ["sm80", "sm90", "sm100", "interpreter"])
def test_every_shape_and_device_has_settings(arch: str, element_size: int, head_dim: int) -> None:
    assert prefill_launch(arch, head_dim, element_size, 64).block_m >= 16
    assert prefill_launch(arch, head_dim, element_size, 4096).block_m >= 16
    deep = decode_launch(arch, head_dim, element_size, 4, is_deep=True)
    shallow = decode_launch(arch, head_dim, element_size, 4, is_deep=False)
    assert deep.block_m == shallow.block_m == 16
    assert deep.num_stages >= shallow.num_stages


def test_padded_head_dims_share_a_row_of_the_table() -> None:
    assert prefill_launch("sm90", 80, 2, 64) == prefill_launch("sm90", 128, 2, 64)


def test_all_query_heads_of_a_kv_head_fit_a_program() -> None:
    assert decode_launch("sm90", 128, 2, 71, is_deep=True).block_m == 128


@pytest.mark.parametrize(
    ("num_groups", "max_context_len", "splits"),
    [
        (8, 100, 1),  # too short to share
        (8, 4096, 16),  # 256 tokens each
        (1, 100_000, 64),  # the limit
        (64, 2048, 4),  # two programs for each multiprocessor
        (100, 100_000, 2),
        (128, 100_000, 1),  # nearly one without
        (10_000, 100_000, 1),
        (8, 0, 1),
    ],
)
def test_splits_fill_the_device(num_groups: int, max_context_len: int, splits: int) -> None:
    assert decode_splits(132, num_groups, max_context_len) == splits


@pytest.mark.parametrize("num_outputs", [64, 1024, 28672, 151936])
@pytest.mark.parametrize("num_inputs", [128, 896, 4096, 14336])
@pytest.mark.parametrize("num_rows", [2, 8, 9, 16])
def test_a_skinny_product_has_room_for_its_rows_and_steps(
    num_rows: int, num_inputs: int, num_outputs: int
) -> None:
    launch = skinny_launch("sm90", num_rows, num_outputs, num_inputs)
    if launch is None:  # the matrix product is faster
        return
    assert launch.block_m >= num_rows
    assert num_inputs % launch.block_k == 0
    assert launch.splits <= num_inputs // launch.block_k
    assert launch.splits == 1 or 2 * num_outputs // launch.block_n <= MAX_NUM_GROUPS


@pytest.mark.parametrize(
    ("arch", "num_rows", "num_inputs"),
    [("sm90", 1, 4096), ("sm90", 17, 4096), ("sm90", 4, 4097), ("sm80", 4, 4096), ("interpreter", 4, 4096)],
)
def test_other_products_are_not_skinny(arch: str, num_rows: int, num_inputs: int) -> None:
    assert skinny_launch(arch, num_rows, 4096, num_inputs) is None


@pytest.mark.parametrize(("num_kv_heads", "num_programs"), [(8, 33), (1, 264), (300, 0)])
def test_two_programs_of_prefill_fill_a_multiprocessor(num_kv_heads: int, num_programs: int) -> None:
    assert prefill_programs(132, num_kv_heads) == num_programs
