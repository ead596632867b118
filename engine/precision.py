"""In which types weights are kept and activations computed: the one place that decides it.

A GPU computes in the requested type. A CPU keeps weights in it, as memory bounds their speed, and computes in
float32, which is at least as precise. Where it has matrix instructions for bfloat16, what is multiplied is
rounded to that, and the products are added to float32 again: as fast as bfloat16 throughout, and nearer to
the truth. Other CPUs convert 16-bit operands on every use, several times slower than float32:
`kernels/linear.py` multiplies the two types, and keeps what a GGUF file holds in Q4_1 in its four bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.errors import ModelLoadError
from kernels.fp8_quantize import FP8

if TYPE_CHECKING:
    from engine.config import EngineConfig

_CPU_FEATURES = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")


@dataclass(frozen=True, slots=True)
class Precision:
    """Types of one engine's tensors."""

    requested: torch.dtype
    """What the model is said to run in."""
    weights: torch.dtype
    """Of matrices."""
    activations: torch.dtype
    """Of all else: norm weights, hidden states and, unless it says otherwise, the KV cache."""
    factors: torch.dtype
    """What activations are rounded to where they are multiplied with a matrix."""
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
    is_cpu = device.type == "cpu"
    activations = torch.float32 if is_cpu else dtype
    is_rounded = is_cpu and dtype == torch.bfloat16 and cpu_multiplies_bfloat16()
    if config.quantization is not None and device.type == "cuda" and dtype != torch.bfloat16:
        raise ModelLoadError(f"quantization {config.quantization} needs bfloat16 on a GPU, not {dtype}")
    return Precision(
        dtype,
        weights=dtype,
        activations=activations,
        factors=dtype if is_rounded else activations,
        quantized=FP8 if config.quantization == "fp8" else None,
        narrow_cache=FP8 if config.kv_cache_dtype == "fp8" else None,
    )


def cpu_multiplies_bfloat16() -> bool:
    """Return whether this CPU has instructions that multiply matrices of bfloat16."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(feature, False) for feature in _CPU_FEATURES)
