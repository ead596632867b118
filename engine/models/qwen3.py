"""Qwen3: Llama with normalised queries and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.layers.rms_norm import RMSNorm
from engine.models.decoder import CausalLM
from engine.models.llama import LlamaAttention

if TYPE_CHECKING:
    from torch import Tensor

    from engine.layers.rotary import Rotary
    from engine.model_config import ModelConfig
    from engine.precision import Precision


class Qwen3Attention(LlamaAttention):
    """Attention whose queries and keys are normalised head by head."""

    def __init__(self, config: ModelConfig, rotary: Rotary, precision: Precision) -> None:
        super().__init__(config, rotary, precision)
        self.q_norm = RMSNorm(config.head_dim, config.norm_epsilon, precision.activations)
        self.k_norm = RMSNorm(config.head_dim, config.norm_epsilon, precision.activations)

    def normalise(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Normalise queries and keys [num_tokens, heads, head_dim]."""
        return self.q_norm(q), self.k_norm(k)


class Qwen3ForCausalLM(CausalLM):
    """The Qwen3 architecture."""

    attention = Qwen3Attention
