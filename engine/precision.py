"""In which types weights are kept and activations computed: the one place that decides it.

A GPU computes in the requested type. So does a CPU with matrix instructions for it. Other CPUs convert
16-bit operands on every use, several times slower than float32. There the weights keep the requested
type, as memory bounds their speed, and all else is float32, which is at least as precise; `kernels/linear.py`
multiplies the two, and keeps what a GGUF file holds in Q4_1 in its four bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

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
    """Of all else: norm weights, hidden states and the KV cache."""

    @property
    def name(self) -> str:
        """The requested type's name, such as "bfloat16"."""
        return str(self.requested).removeprefix("torch.")


def choose_precision(requested: str, model_dtype: str, device: torch.device) -> Precision:
    """Return the types to run in.

    Args:
        requested: "float32", "bfloat16" or "float16", or "auto" for the model's own.
        model_dtype: one of the three.
        device: what computes.
    """
    dtype: torch.dtype = getattr(torch, model_dtype if requested == "auto" else requested)
    if device.type == "cpu" and not cpu_multiplies(dtype):
        return Precision(dtype, weights=dtype, activations=torch.float32)
    return Precision(dtype, weights=dtype, activations=dtype)


def cpu_multiplies(dtype: torch.dtype) -> bool:
    """Return whether this CPU has instructions that multiply matrices of the type."""
    if dtype == torch.float32:
        return True
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(feature, False) for feature in _CPU_FEATURES[dtype])
