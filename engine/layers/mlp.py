"""The feed-forward half of a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from engine.layers.linear import Linear

if TYPE_CHECKING:
    from torch import Tensor

    from engine.model_config import ModelConfig
    from engine.precision import Precision


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig, precision: Precision) -> None:
        super().__init__()
        size, bias = config.intermediate_size, config.mlp_bias
        self.gate_up = Linear(
            config.hidden_size, {"gate_proj": size, "up_proj": size}, bias=bias, precision=precision
        )
        self.down = Linear(size, {"down_proj": config.hidden_size}, bias=bias, precision=precision)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [num_tokens, hidden_size] to the same shape."""
        output: Tensor = self.down(self.gate_up.silu_mul(x))
        return output
