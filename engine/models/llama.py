"""Llama 2 and 3, SmolLM2 and Mistral: one architecture in different sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from engine.layers.attention import PagedAttention
from engine.layers.linear import Linear
from engine.models.decoder import PagedDecoder

if TYPE_CHECKING:
    from torch import Tensor

    from engine.forward_inputs import ForwardInputs
    from engine.kv_cache import LayerCache
    from engine.layers.rotary import Rotary
    from engine.model_config import ModelConfig
    from engine.precision import Precision
    from kernels.rotary_write import HeadNorms


class LlamaAttention(nn.Module):
    """Grouped-query attention with rotary embedding."""

    def __init__(self, config: ModelConfig, rotary: Rotary, precision: Precision) -> None:
        super().__init__()
        self._head_dim = config.head_dim
        q_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self._num_heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        parts = {"q_proj": q_size, "k_proj": kv_size, "v_proj": kv_size}
        self.qkv = Linear(config.hidden_size, parts, bias=config.qkv_bias, precision=precision)
        self.attention = PagedAttention(rotary, config.head_dim)
        self.out = Linear(
            q_size, {"o_proj": config.hidden_size}, bias=config.output_bias, precision=precision
        )

    def forward(self, x: Tensor, inputs: ForwardInputs, cache: LayerCache) -> Tensor:
        """Attend with x [num_tokens, hidden_size]; returns the same shape."""
        q, k, v = self.qkv(x).unflatten(-1, (-1, self._head_dim)).split(self._num_heads, dim=1)
        output: Tensor = self.out(self.attention(q, k, v, self.head_norms, inputs, cache))
        return output

    @property
    def head_norms(self) -> HeadNorms | None:
        """What normalises each head of queries and keys; Llama has nothing of the kind."""
        return None


class LlamaForCausalLM(PagedDecoder):
    """The Llama architecture."""

    attention = LlamaAttention
