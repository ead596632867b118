"""Matrix multiplication with a weight: y[..., n] = sum_k x[..., k] * weight[n, k] + bias[n].

Shapes: x [..., k], weight [n, k], bias [n], all of one dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class LinearWeight:
    """A weight in the form that `linear` wants."""

    weight: Tensor


def prepare_weight(weight: Tensor) -> LinearWeight:
    """Prepare a loaded weight [n, k], once."""
    return LinearWeight(weight)


def linear(x: Tensor, weight: LinearWeight, bias: Tensor | None = None) -> Tensor:
    """Multiply x [..., k] by the weight [n, k]; returns [..., n]."""
    return functional.linear(x, weight.weight, bias)
