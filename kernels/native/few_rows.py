"""The functions of few_rows.c on tensors.

Each does what the torch reference of its name does, on contiguous float32 CPU tensors. Ask `takes` first.
"""

from __future__ import annotations

from ctypes import c_float, c_long, c_void_p
from functools import cache
from typing import TYPE_CHECKING

import torch

from kernels.native.library import load_library

if TYPE_CHECKING:
    from collections.abc import Callable

    from kernels.rotary_write import HeadNorms

MAX_ROWS = 64
"""Beyond it, torch's own threads outweigh what it costs to start an operation."""
MAX_LINEAR_ROWS = 32
"""Beyond it, FBGEMM is faster."""
BLOCK = 32
"""Numbers that share a scale and a minimum in a four-bit weight."""

_POINTER, _LONG, _FLOAT = c_void_p, c_long, c_float
_ARGUMENTS = {
    "linear_bfloat16": [_POINTER] * 4 + [_LONG] * 3,
    "linear_four_bit": [_POINTER] * 5 + [_LONG] * 3,
    "widen_four_bit": [_POINTER] * 2 + [_LONG],
    "rms_norm": [_POINTER] * 2 + [_FLOAT, _POINTER] + [_LONG] * 2,
    "add_rms_norm": [_POINTER] * 3 + [_FLOAT] + [_POINTER] * 2 + [_LONG] * 2,
    "silu_mul": [_POINTER] * 2 + [_LONG] * 2,
    "rotary_write": [_POINTER] * 5 + [_FLOAT] + [_POINTER] * 5 + [_LONG] * 6,
    "decode_attention": [_POINTER] * 5 + [_FLOAT] + [_POINTER] * 2 + [_LONG] * 8,
}


@cache
def _library() -> dict[str, Callable[..., None]] | None:
    library = load_library()
    if library is None:
        return None
    functions = {}
    for name, arguments in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
        functions[name] = function
    return functions


def is_available() -> bool:
    """Return whether this machine has the compiled functions."""
    return _library() is not None


def takes(x: torch.Tensor) -> bool:
    """Return whether the functions here are for activations x [num_rows, ...]."""
    return (
        x.dtype == torch.float32 and 0 < x.shape[0] <= MAX_ROWS and x.device.type == "cpu" and is_available()
    )


def multiplies(x: torch.Tensor) -> bool:
    """Return whether the products here are for activations x [num_rows, k]."""
    return x.dim() == 2 and x.shape[0] <= MAX_LINEAR_ROWS and takes(x)


def _call(name: str, *arguments: torch.Tensor | float | None) -> None:
    library = _library()
    assert library is not None
    library[name](*[each.data_ptr() if isinstance(each, torch.Tensor) else each for each in arguments])


def linear_bfloat16(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Multiply x [m, k] by the bfloat16 weight [n, k]; returns [m, n]."""
    x = x.contiguous()
    y = x.new_empty(x.shape[0], weight.shape[0])
    _call("linear_bfloat16", weight, x, bias, y, *weight.shape, x.shape[0])
    return y


def linear_four_bit(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Multiply x [m, k] by the weight uint8 [n, k / 32, 24]; returns [m, n].

    A block is two float32, scale and minimum, and 32 numbers in 4 bits: the low halves of 16 bytes, then
    the high ones. They stand for scale * number + minimum.
    """
    x = x.contiguous()
    (num_rows, size), num_outputs = x.shape, weight.shape[0]
    y = x.new_empty(num_rows, num_outputs)
    sums_of_x = x.new_empty(num_rows, size // BLOCK)
    _call("linear_four_bit", weight, x, bias, y, sums_of_x, num_outputs, size, num_rows)
    return y


def widen_four_bit(weight: torch.Tensor, out: torch.Tensor) -> None:
    """Write what uint8 [n, k / 32, 24] stands for into float32 [n, k]."""
    _call("widen_four_bit", weight, out, weight.shape[0] * weight.shape[1])


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Normalise x [m, d]."""
    x = x.contiguous()
    y = torch.empty_like(x)
    _call("rms_norm", x, weight, epsilon, y, *x.shape)
    return y


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (normalised sum, sum) of x and residual, both [m, d]."""
    x, residual = x.contiguous(), residual.contiguous()
    y, new_residual = torch.empty_like(x), torch.empty_like(x)
    _call("add_rms_norm", x, residual, weight, epsilon, y, new_residual, *x.shape)
    return y, new_residual


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """Activate gate_up [m, 2 * d]; returns [m, d]."""
    gate_up = gate_up.contiguous()
    num_rows, width = gate_up.shape
    y = gate_up.new_empty(num_rows, width // 2)
    _call("silu_mul", gate_up, y, num_rows, width // 2)
    return y


def rotary_write(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    norms: HeadNorms | None,
    positions: torch.Tensor,
    cos_sin: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    """Turn q and k [num_tokens, heads, head_dim] in place; store k and v. All have one row stride."""
    num_tokens, num_heads, head_dim = q.shape
    _, num_kv_heads, block_size, _ = k_cache.shape
    weights = (None, None, 0.0) if norms is None else norms
    _call(
        "rotary_write",
        *(q, k, v, *weights, positions, cos_sin, k_cache, v_cache, slots),
        *(num_tokens, q.stride(0), num_heads, num_kv_heads, head_dim, block_size),
    )


def decode_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    context_lens: torch.Tensor,
    block_tables: torch.Tensor,
    max_context_len: int,
    scale: float,
) -> torch.Tensor:
    """Attend with one query token a sequence, q [num_seqs, num_heads, head_dim]; returns the same shape."""
    num_seqs, num_heads, head_dim = q.shape
    _, num_kv_heads, block_size, _ = k_cache.shape
    out = q.new_empty(q.shape)
    scores = q.new_empty(num_seqs * num_heads, max_context_len)
    _call(
        "decode_attention",
        *(q, k_cache, v_cache, context_lens, block_tables, scale, scores, out),
        *(num_seqs, q.stride(0), block_tables.stride(0), max_context_len),
        *(num_heads, num_kv_heads, head_dim, block_size),
    )
    return out
