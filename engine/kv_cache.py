"""The paged KV cache: its tensors, and how many blocks a memory budget holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy
import torch

from engine.errors import ModelLoadError

if TYPE_CHECKING:
    from torch import Tensor

    from engine.models.causal_lm import KVSizes


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Keys and values of one layer, each [num_blocks, num_kv_heads, block_size, head_dim]."""

    keys: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class KVCacheShape:
    """Everything about a cache but its number of blocks."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    dtype: torch.dtype

    @staticmethod
    def of(sizes: KVSizes, block_size: int, dtype: torch.dtype) -> KVCacheShape:
        """Return the shape that a model needs."""
        return KVCacheShape(sizes.num_layers, sizes.num_kv_heads, sizes.head_dim, block_size, dtype)

    @property
    def bytes_per_block(self) -> int:
        """Of all layers together."""
        elements = self.num_kv_heads * self.block_size * self.head_dim
        return 2 * self.num_layers * elements * self.dtype.itemsize

    def num_blocks_in(self, memory_bytes: int) -> int:
        """Return how many blocks the memory holds.

        Raises:
            ModelLoadError: not even one.
        """
        num_blocks = memory_bytes // self.bytes_per_block
        if num_blocks < 1:
            raise ModelLoadError(
                f"{memory_bytes} bytes are left for the KV cache, but one block of {self.block_size} tokens "
                f"takes {self.bytes_per_block}"
            )
        return num_blocks

    def allocate(self, num_blocks: int, device: torch.device) -> list[LayerCache]:
        """Return the caches of all layers, zeroed: attention may multiply by 0 what was never written."""
        shape = (self.num_layers, 2, num_blocks, self.num_kv_heads, self.block_size, self.head_dim)
        if device.type == "cpu":  # numpy leaves the zeroing to the system, page by page, at first use
            memory = numpy.zeros(num_blocks * self.bytes_per_block, dtype=numpy.uint8)
            cache = torch.from_numpy(memory).view(self.dtype).view(shape)
        else:
            cache = torch.zeros(shape, dtype=self.dtype, device=device)
        return [LayerCache(keys=layer[0], values=layer[1]) for layer in cache]
