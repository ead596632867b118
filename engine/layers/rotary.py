"""Rotary position embedding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from engine.rope_config import RopeConfig


class Rotary(nn.Module):
    """The table by which queries and keys are turned; all layers share one."""

    cos_sin: Tensor
    """[max_position, head_dim] float32, see `cos_sin_table`."""

    def __init__(self, config: RopeConfig, head_dim: int, max_position: int) -> None:
        super().__init__()
        self.register_buffer("cos_sin", cos_sin_table(config, head_dim, max_position), persistent=False)


def cos_sin_table(config: RopeConfig, head_dim: int, max_position: int) -> Tensor:
    """Return [max_position, head_dim] float32: cosines in the first half, sines in the second."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / config.theta**exponents
    if config.divisors is not None:
        frequencies = frequencies / torch.tensor(config.divisors, dtype=torch.float32)
    positions = torch.arange(max_position, dtype=torch.float32)
    angles = torch.outer(positions, frequencies)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)
