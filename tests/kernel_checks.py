"""Checks that tests of kernels share."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,  # sums in another order
    torch.float16: 2e-3,  # 2 units in the last of 11 bits
    torch.bfloat16: 1.6e-2,  # 2 units in the last of 8 bits; the interpreter truncates
}


def assert_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare with float64 truth, element by element, at the tolerance of the actual dtype."""
    tolerance = TOLERANCE[actual.dtype]
    atol = tolerance * float(expected.square().mean().sqrt()) if expected.numel() else 0.0
    torch.testing.assert_close(actual.double().cpu(), expected, rtol=tolerance, atol=atol)


def assert_means_close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare rows that are weighted means, as attention's are.

    An element that cancels out is only as exact as what it was summed from, of which its row tells the size:
    that of a short context is far above that of all rows together.
    """
    tolerance = TOLERANCE[actual.dtype]
    squares = expected.square()
    size = squares.mean(-1, keepdim=True).clamp_min(squares.mean()).sqrt()
    torch.testing.assert_close(actual.double().cpu() / size, expected / size, rtol=tolerance, atol=tolerance)


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Within, uninitialised memory holds NaN, so that an element that was not written shows."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
