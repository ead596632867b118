"""Root-mean-square normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from kernels.add_rms_norm import add_rms_norm
from kernels.rms_norm import rms_norm

if TYPE_CHECKING:
    from torch import Tensor


class RMSNorm(nn.Module):
    """Scales the last dimension to a root mean square of 1, then by a weight."""

    def __init__(self, size: int, epsilon: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, dtype=dtype), requires_grad=False)
        self._epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., size]."""
        return rms_norm(x, self.weight, self._epsilon)

    def add(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Return (normalised sum, sum) of x and residual, both [..., size]."""
        return add_rms_norm(x, residual, self.weight, self._epsilon)
