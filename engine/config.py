"""How the engine runs. What the model *is* stands in `model_config.py`."""

from __future__ import annotations

from typing import Literal

import msgspec

LoadFormat = Literal["auto", "safetensors", "gguf", "dummy"]
DataType = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cpu", "cuda"]
Quantization = Literal["fp8"]
KVCacheType = Literal["auto", "fp8"]
ModelImplementation = Literal["auto", "transformers"]


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of one engine process. The command line's checks have passed."""

    model_path: str
    """A local folder (config.json, *.safetensors) or a .gguf file."""
    load_format: LoadFormat = "auto"
    """`dummy` makes seeded random weights from the config alone."""
    model_impl: ModelImplementation = "auto"
    """What computes a model: `auto` is a page of ours where there is one, else transformers on our cache."""
    dtype: DataType = "auto"
    """Of weights, activations and KV cache. `auto` is the model's own."""
    quantization: Quantization | None = None
    """`fp8` rounds the layers' matrices to eight bits, with a scale for each output, and multiplies them with
    activations that are rounded row by row."""
    kv_cache_dtype: KVCacheType = "auto"
    """`fp8` keeps keys and values in eight bits, without scales. `auto` is the activations' type."""
    device: Device = "auto"
    """`auto` is the GPU where there is one."""
    max_model_len: int | None = None
    """Longest prompt and output together, in tokens. None is the model's own."""
    block_size: int | None = None
    """Tokens in a KV block. None lets the device decide."""
    num_blocks: int | None = None
    """Size of the KV cache, in blocks. None sizes it from memory."""
    kv_cache_memory_bytes: int | None = None
    """Size of the KV cache, in bytes, where `num_blocks` is not given."""
    gpu_memory_utilization: float = 0.9
    """Share of the GPU's memory for weights, activations and KV cache together."""
    max_num_seqs: int | None = None
    """Most sequences running at once. None lets the device decide."""
    max_num_batched_tokens: int | None = None
    """Most tokens computed in one step. None lets the device decide."""
    long_prefill_token_threshold: int = 0
    """A sequence that lacks more tokens than this gets at most so many of a step. 0 sets no limit."""
    enable_prefix_caching: bool = True
    max_loras: int = 0
    """LoRA adapters that may take part in one step: each has room on the device. 0 switches adapters off."""
    max_lora_rank: int = 16
    """Largest rank of an adapter's matrices."""
    seed: int = 0
    """Of dummy weights."""
    num_threads: int | None = None
    """CPU threads for tensor operations. None is the number of physical cores."""
