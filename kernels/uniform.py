"""One random number for each (seed, position): a hash, so that a draw depends on nothing else.

    key = mix(seed),  uniform = (mix(key + position * golden) >> 12) / 2**52  in [0, 1)

`mix` is the finaliser of splitmix64 (Steele, Lea, Flood 2014), in int64 arithmetic that wraps.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

GOLDEN = tl.constexpr(0x9E3779B97F4A7C15 - (1 << 64))
MULTIPLIER_1 = tl.constexpr(0xBF58476D1CE4E5B9 - (1 << 64))
MULTIPLIER_2 = tl.constexpr(0x94D049BB133111EB - (1 << 64))
RESOLUTION = tl.constexpr(2.0**-52)


def seed_keys(seeds: list[int], device: torch.device) -> torch.Tensor:
    """Return the key of each seed, [num_seeds] int64; seeds wrap to 64 bits."""
    wrapped = [(seed + (1 << 63)) % (1 << 64) - (1 << 63) for seed in seeds]
    return _mix(torch.tensor(wrapped, dtype=torch.int64, device=device))


def uniform_reference(keys: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Hash keys and positions, both int64, to float64 in [0, 1) with 52 random bits."""
    bits: torch.Tensor = _mix(keys + positions * GOLDEN.value)
    numbers: torch.Tensor = _shift_right(bits, 12).double() * RESOLUTION.value
    return numbers


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shift_right(x, 30)) * MULTIPLIER_1.value
    x = (x ^ _shift_right(x, 27)) * MULTIPLIER_2.value
    return x ^ _shift_right(x, 31)


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift without copying the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


@triton.jit
def uniform(key, position):
    """The same on the device, for int64 values."""
    x = key + position * GOLDEN
    x = (x ^ (x.to(tl.uint64) >> 30).to(tl.int64)) * MULTIPLIER_1
    x = (x ^ (x.to(tl.uint64) >> 27).to(tl.int64)) * MULTIPLIER_2
    x = x ^ (x.to(tl.uint64) >> 31).to(tl.int64)
    return (x.to(tl.uint64) >> 12).to(tl.float64) * RESOLUTION
