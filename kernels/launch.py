"""Launch settings: how each kernel is cut into programs, by shape, element size and architecture.

A committed table instead of autotuning: no stall on a first call, the same result every time, and
nothing that a captured CUDA graph could not replay. A row of the table is a measurement;
`docs/kernels.md` says how to take one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton

NUM_MULTIPROCESSORS_UNDER_INTERPRETER = 4


@dataclass(frozen=True, slots=True)
class Launch:
    """One way to launch a kernel."""

    num_warps: int
    num_stages: int = 1


@dataclass(frozen=True, slots=True)
class AttentionLaunch:
    """One way to launch an attention kernel."""

    block_m: int
    """Query rows of a program: query tokens times the query heads that share a key/value head."""
    block_n: int
    """Context tokens of an inner step."""
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class VectorLaunch:
    """One way to multiply one row by a weight."""

    block_n: int
    """Outputs of a program."""
    block_k: int
    """Inputs of an inner step."""
    num_warps: int


@dataclass(frozen=True, slots=True)
class SkinnyLaunch:
    """One way to multiply a few rows by a weight."""

    block_m: int
    """Rows of x, padded."""
    block_n: int
    """Rows of the weight of a program."""
    block_k: int
    """Inputs of an inner step."""
    splits: int
    """Programs that share the inputs."""
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class BlockLaunch:
    """One way to go over a row in blocks."""

    block: int
    """Elements of a program."""
    num_warps: int


@dataclass(frozen=True, slots=True)
class LoraLaunch:
    """One way to launch the two kernels of a low-rank change."""

    block_t: int
    """Tokens of a program."""
    block_k: int
    """Inputs of an inner step."""
    block_n: int
    """Outputs of a program."""
    max_block_r: int
    """Ranks of an inner step at most."""
    splits: int
    """Programs that share the inputs of one token, at most."""
    num_warps: int
    num_stages: int


# Keys are (architecture, bytes of an element, head_dim padded to a power of two, at least 64).
_PREFILL = {
    # for short queries, for long ones
    ("sm90", 2, 64): (AttentionLaunch(64, 64, 4, 3), AttentionLaunch(128, 64, 8, 3)),
    ("sm90", 2, 128): (AttentionLaunch(64, 64, 4, 3), AttentionLaunch(128, 128, 8, 2)),
    ("sm90", 2, 256): (AttentionLaunch(128, 32, 8, 2), AttentionLaunch(128, 32, 8, 2)),
    ("sm90", 4, 64): (AttentionLaunch(32, 32, 4, 1), AttentionLaunch(32, 32, 4, 1)),
    ("sm90", 4, 128): (AttentionLaunch(16, 32, 4, 1), AttentionLaunch(16, 32, 4, 1)),
    ("interpreter", 2, 64): (AttentionLaunch(64, 64, 4, 1), AttentionLaunch(64, 64, 4, 1)),
    ("interpreter", 4, 64): (AttentionLaunch(64, 64, 4, 1), AttentionLaunch(64, 64, 4, 1)),
}
_PREFILL_ELSEWHERE = (AttentionLaunch(32, 32, 4, 1), AttentionLaunch(32, 32, 4, 1))
_LONG_QUERY_ROWS = 16384
PREFILL_MIN_SPLIT_TOKENS = 512
_PREFILL_PROGRAMS_PER_MULTIPROCESSOR = 2

_DECODE = {
    # tokens of a step, warps, stages where programs are few, and where they are many
    ("sm90", 2, 64): (128, 4, 5, 3),
    ("sm90", 2, 128): (64, 4, 5, 3),
    ("sm90", 2, 256): (32, 4, 3, 3),
    ("sm90", 4, 64): (32, 4, 2, 2),
    ("sm90", 4, 128): (16, 4, 2, 2),
    ("interpreter", 2, 64): (64, 4, 1, 1),
    ("interpreter", 4, 64): (64, 4, 1, 1),
}
_DECODE_ELSEWHERE = (32, 4, 2, 2)
_DECODE_MIN_SPLIT_TOKENS = 256
_DECODE_MAX_SPLITS = 64
_DECODE_PROGRAMS_PER_MULTIPROCESSOR = 2

_VECTOR = VectorLaunch(block_n=2, block_k=1024, num_warps=4)
_FP8_VECTOR = VectorLaunch(block_n=8, block_k=512, num_warps=4)

# Rows of the weight, inputs of a step, warps and stages for sm90; 16 rows of x whatever their number, so that
# a row's sums have one order.
_SKINNY_WIDE = (128, 128, 8, 3)  # enough rows of the weight for two programs on a multiprocessor
_SKINNY_LONG = (64, 128, 4, 4)
_SKINNY = (64, 128, 4, 5)
_SKINNY_MAX_ROWS = 16
_SKINNY_PROGRAMS = 132
_SKINNY_LONG_STEPS = 64
_SKINNY_FEW_STEPS = 8
_SKINNY_MIN_STEPS = 4
_SKINNY_MAX_SPLITS = 8

# By bytes of an element. The same for any number of tokens, so that a token's sums have one order.
_LORA = {
    2: LoraLaunch(block_t=16, block_k=128, block_n=128, max_block_r=64, splits=8, num_warps=4, num_stages=2),
    4: LoraLaunch(block_t=16, block_k=64, block_n=64, max_block_r=32, splits=8, num_warps=4, num_stages=1),
}

_BITMASK = BlockLaunch(block=2048, num_warps=4)
_TILE_PROGRAMS = 2048


def row_launch(num_columns: int) -> Launch:
    """For kernels that hold one row of `num_columns` elements in a program."""
    if num_columns <= 512:
        return Launch(num_warps=1)
    if num_columns <= 2048:
        return Launch(num_warps=4)
    return Launch(num_warps=8 if num_columns <= 8192 else 16)


def prefill_launch(arch: str, head_dim: int, element_size: int, max_rows: int) -> AttentionLaunch:
    """For paged prefill; `max_rows` is the longest query of the batch times its heads per key/value head."""
    short, long = _PREFILL.get(_key(arch, head_dim, element_size), _PREFILL_ELSEWHERE)
    return long if is_long_prefill(max_rows) else short


def is_long_prefill(max_rows: int) -> bool:
    """Whether the longest query has so many rows that it fills the device."""
    return max_rows >= _LONG_QUERY_ROWS


def prefill_programs(num_multiprocessors: int, num_kv_heads: int) -> int:
    """How many programs of prefill there must be for each key/value head to fill the device."""
    return num_multiprocessors * _PREFILL_PROGRAMS_PER_MULTIPROCESSOR // num_kv_heads


def decode_launch(
    arch: str, head_dim: int, element_size: int, heads_per_kv_head: int, *, is_deep: bool
) -> AttentionLaunch:
    """For paged decode; all query heads of a key/value head share a program.

    `is_deep`: whether the programs are so few that each must have many bytes on their way.
    """
    block_n, num_warps, deep, shallow = _DECODE.get(_key(arch, head_dim, element_size), _DECODE_ELSEWHERE)
    block_m = max(16, triton.next_power_of_2(heads_per_kv_head))
    return AttentionLaunch(block_m, block_n, num_warps, deep if is_deep else shallow)


def decode_programs(num_multiprocessors: int) -> int:
    """Up to how many programs of decode are few."""
    return num_multiprocessors * _DECODE_PROGRAMS_PER_MULTIPROCESSOR


def decode_splits(num_multiprocessors: int, num_groups: int, max_context_len: int) -> int:
    """How many programs share one sequence's context; a power of two.

    As many as fill the device twice, but none has fewer than 256 tokens; and none where there is nearly one
    for each multiprocessor without. `num_groups` is the number of sequences times key/value heads.
    """
    if 10 * num_groups >= 9 * num_multiprocessors:
        return 1
    wanted = decode_programs(num_multiprocessors) // num_groups
    useful = -(-max_context_len // _DECODE_MIN_SPLIT_TOKENS)
    most = max(1, min(wanted, useful, _DECODE_MAX_SPLITS))
    return 1 << (most.bit_length() - 1)


def vector_launch(num_rows: int, num_columns: int) -> VectorLaunch | None:
    """For one row times a weight [num_rows, num_columns]; None where it is left to a matrix product."""
    return None if num_columns % _VECTOR.block_k else _VECTOR


def skinny_launch(arch: str, num_rows: int, num_outputs: int, num_inputs: int) -> SkinnyLaunch | None:
    """For a few rows times a weight [num_outputs, num_inputs]; None where it is left to a matrix product.

    As many programs share the inputs as fill the device once, or twice if the inputs are many, but none has
    fewer than 4 steps; and 8 steps are not worth sharing.
    """
    if arch != "sm90" or not 2 <= num_rows <= _SKINNY_MAX_ROWS or num_inputs % _SKINNY[1]:
        return None
    num_tiles = -(-num_outputs // _SKINNY[0])
    num_steps = num_inputs // _SKINNY[1]
    is_long = num_steps >= _SKINNY_LONG_STEPS
    if num_tiles >= 2 * _SKINNY_PROGRAMS:
        return _skinny_launch(_SKINNY_WIDE, 1)
    wanted = _SKINNY_PROGRAMS * (2 if is_long else 1) // num_tiles
    useful = num_steps // _SKINNY_MIN_STEPS if num_steps > _SKINNY_FEW_STEPS else 1
    most = max(1, min(wanted, useful, _SKINNY_MAX_SPLITS))
    return _skinny_launch(_SKINNY_LONG if is_long else _SKINNY, 1 << (most.bit_length() - 1))


def _skinny_launch(settings: tuple[int, int, int, int], splits: int) -> SkinnyLaunch:
    block_n, block_k, num_warps, num_stages = settings
    return SkinnyLaunch(_SKINNY_MAX_ROWS, block_n, block_k, splits, num_warps, num_stages)


def bitmask_launch() -> BlockLaunch:
    """For masks over a vocabulary."""
    return _BITMASK


def programs_each(num_tiles: int, num_seqs: int) -> int:
    """How many programs share the tiles of a sequence, where most rows may have nothing to do."""
    tiles_each = -(-num_tiles * num_seqs // _TILE_PROGRAMS)
    return -(-num_tiles // tiles_each)


def lora_launch(element_size: int) -> LoraLaunch:
    """For low-rank changes of a matrix product."""
    return _LORA[element_size]


def _key(arch: str, head_dim: int, element_size: int) -> tuple[str, int, int]:
    return arch, element_size, max(triton.next_power_of_2(head_dim), 64)


@cache
def architecture(device: torch.device) -> str:
    """The table's name of a device, such as "sm90"; the CPU stands for the interpreter."""
    if device.type != "cuda":
        return "interpreter"
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm{major}{minor}"


@cache
def num_multiprocessors(device: torch.device) -> int:
    """How many programs of full size run at once."""
    if device.type != "cuda":
        return NUM_MULTIPROCESSORS_UNDER_INTERPRETER
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


def fp8_vector_launch(num_rows: int, num_columns: int) -> VectorLaunch | None:
    """For one row times a weight of eight bits; None where it is left to a matrix product."""
    return None if num_columns % _FP8_VECTOR.block_k else _FP8_VECTOR
