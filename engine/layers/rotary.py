"""Rotary position embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from kernels.rotary import rotary

if TYPE_CHECKING:
    from torch import Tensor

    from engine.rope_config import RopeConfig


class Rotary(nn.Module):
    """Turns queries and keys by their positions; all layers share one table."""

    cos_sin: Tensor

    def __init__(self, config: RopeConfig, head_dim: int, max_position: int) -> None:
        super().__init__()
        self.register_buffer("cos_sin", cos_sin_table(config, head_dim, max_position), persistent=False)

    def forward(self, q: Tensor, k: Tensor, positions: Tensor) -> None:
        """Turn q and k [num_tokens, heads, head_dim] in place."""
        rotary(q, k, positions, self.cos_sin)


def cos_sin_table(config: RopeConfig, head_dim: int, max_position: int) -> Tensor:
    """Return [max_position, head_dim] float32: cosines in the first half, sines in the second."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / config.theta**exponents
    if config.divisors is not None:
        frequencies = frequencies / torch.tensor(config.divisors, dtype=torch.float32)
    positions = torch.arange(max_position, dtype=torch.float32)
    angles = torch.outer(positions, frequencies)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)
