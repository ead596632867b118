"""Qwen3: Llama with normalised queries and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.layers.rms_norm import RMSNorm
from engine.models.decoder import PagedDecoder
from engine.models.llama import LlamaAttention
from kernels.rotary_write import HeadNorms

if TYPE_CHECKING:
    from engine.layers.rotary import Rotary
    from engine.model_config import ModelConfig
    from engine.precision import Precision


class Qwen3Attention(LlamaAttention):
    """Attention whose queries and keys are normalised head by head."""

    def __init__(self, config: ModelConfig, rotary: Rotary, precision: Precision) -> None:
        super().__init__(config, rotary, precision)
        self.q_norm = RMSNorm(config.head_dim, config.norm_epsilon, precision.activations)
        self.k_norm = RMSNorm(config.head_dim, config.norm_epsilon, precision.activations)

        self._norms = HeadNorms(self.q_norm.weight, self.k_norm.weight, config.norm_epsilon)

    @property
    def head_norms(self) -> HeadNorms:
        """What normalises each head of queries and keys."""
        return self._norms


class Qwen3ForCausalLM(PagedDecoder):
    """The Qwen3 architecture."""

    attention = Qwen3Attention
