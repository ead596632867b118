"""How much of a model takes part in a step: the floor under its time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.layers.linear import Linear

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The weights that a token is multiplied with; a table of embeddings that is only looked up is not."""

    num_step_weights: int
    step_weight_bytes: int

    @staticmethod
    def of(model: nn.Module) -> ModelSize:
        """Measure a model whose weights are loaded and not prepared yet."""
        linears = [module for module in model.modules() if isinstance(module, Linear)]
        return ModelSize(
            sum(linear.weight.numel() for linear in linears), sum(linear.step_bytes for linear in linears)
        )
