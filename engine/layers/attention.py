"""Causal self-attention over the paged KV cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from kernels.paged_attention import paged_attention
from kernels.rotary_write import rotary_write

if TYPE_CHECKING:
    from torch import Tensor

    from engine.forward_inputs import ForwardInputs
    from engine.kv_cache import LayerCache
    from engine.layers.rotary import Rotary
    from kernels.rotary_write import HeadNorms


class PagedAttention(nn.Module):
    """Turns queries and keys, stores keys and values, attends."""

    def __init__(self, rotary: Rotary, head_dim: int) -> None:
        super().__init__()
        self.rotary = rotary
        self._scale = head_dim**-0.5

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        norms: HeadNorms | None,
        inputs: ForwardInputs,
        cache: LayerCache,
    ) -> Tensor:
        """Attend with q [num_tokens, num_heads, head_dim], k and v [num_tokens, num_kv_heads, head_dim].

        q and k are overwritten. `norms` normalise them first. Returns [num_tokens, num_heads * head_dim].
        """
        q = rotary_write(
            q, k, v, norms, inputs.positions, self.rotary.cos_sin, cache.keys, cache.values, inputs.slots
        )
        return paged_attention(q, cache.keys, cache.values, inputs.attention, self._scale).flatten(1)
