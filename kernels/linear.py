"""Matrix multiplication with a weight: y[..., n] = sum_k x[..., k] * weight[n, k] + bias[n].

x, y: [..., k] and [..., n], bias [n], of one type; weight: [n, k], of the same type or, on a CPU, of a
16-bit type under float32 activations. Moves n * k elements of the weight, which dominate while rows
are few.

The GPU, and a CPU with matrix instructions for the type, take `F.linear`. A CPU without them is handled
here, where `F.linear` is far from what memory and arithmetic allow. Milliseconds for all matrices of
SmolLM2-135M (269 MB in bfloat16) on two Zen 3 cores, 20 GB/s and 218 GFLOP/s:

    rows                             1     2     4     8    16    64   256   1024
    F.linear, bfloat16              17    29    57   120   238   767         12574
    F.linear, float32               40    78    83    70    84   174   534   1650
    weight @ x.T, float32           45    29    31    60    60   150   430   1560
    weight @ x.T, widened here            54    43    60    55   140   440   1560

So one or two rows multiply in 16 bits, as one dot product for each output. More rows widen the
weight to float32, a piece at a time in a scratch that stays in the cache: memory holds 16 bits an
element, and results are exact but for float32 rounding. With up to `MAX_TALL_ROWS` rows the weight is
the left operand, for which MKL is up to 2.5 times as fast; its transposed result costs little then.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

MAX_DOT_ROWS = 2
MAX_TALL_ROWS = 128
SCRATCH_ELEMENTS = 1 << 21
"""Of float32: 8 MB, about the cache that two cores share."""


@dataclass(frozen=True, slots=True)
class LinearWeight:
    """A weight in the form that `linear` wants."""

    weight: Tensor


def prepare_weight(weight: Tensor) -> LinearWeight:
    """Prepare a loaded weight [n, k], once."""
    return LinearWeight(weight.contiguous())


def linear(x: Tensor, weight: LinearWeight, bias: Tensor | None = None) -> Tensor:
    """Multiply x [..., k] by the weight [n, k]; returns [..., n]."""
    if x.is_cuda or x.dtype != torch.float32:
        return functional.linear(x, weight.weight, bias)
    out = _multiply(x.reshape(-1, x.shape[-1]), weight.weight)
    if bias is not None:
        out += bias
    return out.view(*x.shape[:-1], out.shape[-1])


def _multiply(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply float32 x [m, k] by the weight [n, k] on the CPU; returns [m, n]."""
    num_rows, num_outputs = x.shape[0], weight.shape[0]
    is_narrow = weight.dtype != torch.float32
    if num_rows <= (MAX_DOT_ROWS if is_narrow else 1):
        return functional.linear(x.to(weight.dtype), weight).float()
    if num_rows <= MAX_TALL_ROWS:
        tall = x.new_empty(num_outputs, num_rows)
        for start, piece in _float32_pieces(weight):
            torch.mm(piece, x.t(), out=tall[start : start + len(piece)])
        return tall.t().contiguous()
    out = x.new_empty(num_rows, num_outputs)
    for start, piece in _float32_pieces(weight):
        torch.mm(x, piece.t(), out=out[:, start : start + len(piece)])
    return out


def _float32_pieces(weight: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, rows as float32) of the weight; a piece is valid until the next is asked for."""
    if weight.dtype == torch.float32:
        yield 0, weight
        return
    size = max(1, SCRATCH_ELEMENTS // weight.shape[1])
    scratch = _scratch(max(SCRATCH_ELEMENTS, weight.shape[1]))
    for start in range(0, len(weight), size):
        rows = weight[start : start + size]
        yield start, scratch[: rows.numel()].view(rows.shape).copy_(rows)


@cache
def _scratch(num_elements: int) -> Tensor:
    """Return memory for one piece. One thread multiplies, so one is enough."""
    with torch.inference_mode(mode=False):
        return torch.empty(num_elements)
