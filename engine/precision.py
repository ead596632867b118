"""In which types weights are kept and activations computed: the one place that decides it.

A GPU computes in the requested type. So does a CPU with matrix instructions for it. Other CPUs convert
16-bit operands on every use, several times slower than float32. There the weights keep the requested
type, as memory bounds their speed, and all else is float32, which is at least as precise; `kernels/linear.py`
multiplies the two, and keeps what a GGUF file holds in Q4_1 in its four bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.errors import ModelLoadError
from kernels.fp8_quantize import FP8

if TYPE_CHECKING:
    from engine.config import EngineConfig

_CPU_FEATURES = {
    torch.bfloat16: ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16"),
    torch.float16: ("amx_fp16", "avx512_fp16", "fp16_arith"),
}


@dataclass(frozen=True, slots=True)
class Precision:
    """Types of one engine's tensors."""

    requested: torch.dtype
    """What the model is said to run in."""
    weights: torch.dtype
    """Of matrices."""
    activations: torch.dtype
    """Of all else: norm weights, hidden states and, unless it says otherwise, the KV cache."""
    quantized: torch.dtype | None = None
    """Of the layers' matrices once they are loaded, where they are rounded further; not of the head."""
    narrow_cache: torch.dtype | None = None
    """Of the KV cache, where it is narrower than the activations."""

    @property
    def kv_cache(self) -> torch.dtype:
        """Type of the KV cache."""
        return self.narrow_cache or self.activations

    @property
    def name(self) -> str:
        """The requested type's name, such as "bfloat16"."""
        return str(self.requested).removeprefix("torch.")


def choose_precision(config: EngineConfig, model_dtype: str, device: torch.device) -> Precision:
    """Return the types to run in.

    Args:
        config: says what is wanted; a dtype of "auto" is the model's own.
        model_dtype: "float32", "bfloat16" or "float16".
        device: what computes.

    Raises:
        ModelLoadError: the types do not go together.
    """
    dtype: torch.dtype = getattr(torch, model_dtype if config.dtype == "auto" else config.dtype)
    is_widened = device.type == "cpu" and not cpu_multiplies(dtype)
    activations = torch.float32 if is_widened else dtype
    if config.quantization is not None and device.type == "cuda" and dtype != torch.bfloat16:
        raise ModelLoadError(f"quantization {config.quantization} needs bfloat16 on a GPU, not {dtype}")
    return Precision(
        dtype,
        weights=dtype,
        activations=activations,
        quantized=FP8 if config.quantization == "fp8" else None,
        narrow_cache=FP8 if config.kv_cache_dtype == "fp8" else None,
    )


def cpu_multiplies(dtype: torch.dtype) -> bool:
    """Return whether this CPU has instructions that multiply matrices of the type."""
    if dtype == torch.float32:
        return True
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(feature, False) for feature in _CPU_FEATURES[dtype])
