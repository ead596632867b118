from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hand_plans import load_runner
from tiny_model import make_tiny_model

from engine.cache_sizing import CPU_MAX_BYTES, choose_num_blocks
from engine.config import EngineConfig
from engine.errors import ModelLoadError
from engine.kv_cache import KVCacheShape
from engine.limits import Limits, choose_device

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")
SHAPE = KVCacheShape(num_layers=3, num_kv_heads=2, head_dim=4, block_size=16, dtype=torch.bfloat16)
LIMITS = Limits(block_size=16, max_num_seqs=1000, max_num_batched_tokens=64, max_model_len=100000)


def num_blocks(limits: Limits = LIMITS, shape: KVCacheShape = SHAPE, **config: int) -> int:
    return choose_num_blocks(EngineConfig(model_path="", **config), limits, shape, CPU, lambda: None)  # type: ignore[arg-type]


def test_allocates_zeroed_caches_of_the_shape() -> None:
    caches = SHAPE.allocate(5, CPU)
    assert len(caches) == 3
    for cache in caches:
        for tensor in (cache.keys, cache.values):
            assert tensor.shape == (5, 2, 16, 4)
            assert tensor.dtype == torch.bfloat16
            assert tensor.is_contiguous()
            assert not tensor.any()
    total = sum(cache.keys.nbytes + cache.values.nbytes for cache in caches)
    assert total == 5 * SHAPE.bytes_per_block
    caches[0].keys.fill_(1)
    assert not caches[0].values.any()
    assert not caches[1].keys.any()


def test_a_configured_size_is_taken() -> None:
    assert num_blocks(num_blocks=7) == 7
    assert num_blocks(kv_cache_memory_bytes=10 * SHAPE.bytes_per_block + 1) == 10
    with pytest.raises(ModelLoadError, match="one block of 16 tokens"):
        num_blocks(kv_cache_memory_bytes=100)


def test_by_default_the_cpu_gives_a_modest_part_of_its_memory() -> None:
    assert 1 <= num_blocks() <= CPU_MAX_BYTES // SHAPE.bytes_per_block


def test_by_default_no_more_blocks_than_the_sequences_can_fill() -> None:
    assert num_blocks(Limits(16, max_num_seqs=3, max_num_batched_tokens=64, max_model_len=33)) == 9


def test_the_context_is_bounded_by_the_cache(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path)
    assert load_runner(folder, block_size=8, num_blocks=4).info.max_model_len == 32
    assert load_runner(folder, block_size=8, num_blocks=96).info.max_model_len == 512
    with pytest.raises(ModelLoadError, match="holds 32 tokens, fewer than max_model_len = 33"):
        load_runner(folder, block_size=8, num_blocks=4, max_model_len=33)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_an_error() -> None:
    assert choose_device("auto") == CPU
    with pytest.raises(ModelLoadError, match="no CUDA device"):
        choose_device("cuda")
