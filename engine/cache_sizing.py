"""How many blocks the KV cache gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.host import memory_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.config import EngineConfig
    from engine.kv_cache import KVCacheShape
    from engine.limits import Limits

CPU_MEMORY_SHARE = 0.25
CPU_MAX_BYTES = 4 * 1024**3


def choose_num_blocks(
    config: EngineConfig,
    limits: Limits,
    shape: KVCacheShape,
    device: torch.device,
    run_largest_step: Callable[[], None],
) -> int:
    """Return the number of blocks: as configured, or what memory allows and the sequences can use.

    Args:
        run_largest_step: called to measure the activations' memory on a GPU, with the weights loaded.

    Raises:
        ModelLoadError: memory does not hold one block.
    """
    if config.num_blocks is not None:
        return config.num_blocks
    if config.kv_cache_memory_bytes is not None:
        return shape.num_blocks_in(config.kv_cache_memory_bytes)
    if device.type == "cpu":
        # The pages become resident when they are first written, so an idle engine does not hold them.
        budget = min(int(CPU_MEMORY_SHARE * memory_bytes()), CPU_MAX_BYTES)
    else:
        budget = _free_gpu_bytes(device, config.gpu_memory_utilization, run_largest_step)
    return min(shape.num_blocks_in(budget), limits.max_useful_blocks)


def _free_gpu_bytes(device: torch.device, utilization: float, run_largest_step: Callable[[], None]) -> int:
    """Return what weights, activations at their peak, and other users of the GPU leave of our share."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    run_largest_step()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    outside_torch = total - free - torch.cuda.memory_reserved(device)
    return int(utilization * total) - outside_torch - peak
