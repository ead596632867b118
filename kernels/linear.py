"""Matrix multiplication with a weight: y[..., n] = sum_k x[..., k] * weight[n, k] + bias[n].

x, y: [..., k] and [..., n], bias [n], of one type; weight: [n, k], of the same type or, on a CPU, of a
16-bit type beside float32. Moves n * k elements of the weight, which dominate while rows
are few.

The GPU takes `vector_linear.py` for one row, `skinny_linear.py` for few where it is faster, else `F.linear`.
On a CPU the weight is packed once, for whichever library is fastest there.
Milliseconds for all matrices of SmolLM2-135M (269 MB in 16 bits) on two cores:

    rows                                          1     2     4     8    16    64   256   1024
    Zen 3 (AVX2)             F.linear, bfloat16  17    29    57         238   767         12574
                             F.linear, float32   40    78    83    70    84   174   534   1650
                             weight @ x.T, f32   45    29    31    60    60   150   430   1560
    Xeon held to AVX2        F.linear, bfloat16  28    32    57   106   271
                             F.linear, float32   30    52    58    52    92   220   652   2553
                             weight @ x.T, f32   30    64    64    62    91   198   698   2283
                             FBGEMM, float16     25    24    25    30    60   153   562   2268
    Xeon with AMX            F.linear, bfloat16  33    33    35    39    37    47   107    226
                             oneDNN, bfloat16    26    33    34    36    31    30    83    207
                             FBGEMM, float16     18    28    31    40    56   137   508   1407

- Few rows under float32 activations (a CPU without matrix instructions for 16 bits) go to
  `native/few_rows.c`, if the machine has a C compiler: weights that a GGUF file holds in Q4_1 stay in four
  bits, others are bfloat16. SmolLM2's layers and head then take 8 ms for 1 row, 26 for 8 and 51 for 16 on
  the Zen 3 above, from four bits. For more rows, four bits are widened to float32 piece by piece, so that
  a sequence meets the same weights whatever the batch.
- More rows of 16-bit weights under float32 activations are multiplied by FBGEMM, which keeps them in
  float16 and widens them in registers, with float32 sums. A bfloat16 becomes a float16 without loss where
  it is a normal one, from 6e-5 up; below, it is rounded by at most 3e-8.
- bfloat16 weights are packed for oneDNN where the CPU has matrix instructions for them; activations of
  float32 are rounded for the product.
- float32 weights stay as they are. With some rows, but not many, they are the left operand, for which
  MKL is up to 2.5 times as fast on AMD's processors; its transposed result costs little then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from kernels import skinny_linear, vector_linear
from kernels.fp8_linear import Fp8Weight, fp8_linear, fp8_linear_silu_mul
from kernels.native import few_rows
from kernels.silu_mul import silu_mul

if TYPE_CHECKING:
    from torch import Tensor

MAX_TALL_ROWS = 128
MAX_FLOAT16 = 65504.0
SCRATCH_ELEMENTS = 1 << 21
"""Of float32: 8 MB, about the cache that two cores share."""


@dataclass(frozen=True, slots=True)
class LinearWeight:
    """A weight [n, k] in the form that `linear` wants."""

    plain: Tensor | None = None
    """As it was loaded, or widened to float32."""
    fbgemm: torch.ScriptObject | None = None
    """Packed in float16 by FBGEMM."""
    onednn: Tensor | None = None
    """Packed by oneDNN."""
    four_bit: Tensor | None = None
    """As the file has it, for `few_rows`: uint8 [n, k / 32, 24]."""
    fp8: Fp8Weight | None = None
    """Rounded to eight bits, as is what it is multiplied with."""


def prepare_weight(weight: Tensor, factors: torch.dtype, four_bit: Tensor | None = None) -> LinearWeight:
    """Prepare a loaded weight [n, k], once, for what it is multiplied with.

    Args:
        weight: the numbers.
        factors: the type of the other factor; activations of a wider type are rounded to it.
        four_bit: the same numbers in blocks of four bits, where the file has them so.
    """
    if weight.is_cuda:
        return LinearWeight(plain=weight.contiguous())
    if factors == torch.float32:
        return _prepare_for_float32(weight, four_bit)
    if weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return LinearWeight(onednn=torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None))
    return LinearWeight(plain=weight.contiguous())


def _prepare_for_float32(weight: Tensor, four_bit: Tensor | None) -> LinearWeight:
    if four_bit is not None and few_rows.is_available():
        return LinearWeight(four_bit=four_bit)
    if weight.dtype == torch.float32:
        return LinearWeight(plain=weight.contiguous())
    if not _fbgemm_takes(weight):
        return LinearWeight(plain=weight.float())
    packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), None)
    return LinearWeight(weight.contiguous(), packed)


def linear(x: Tensor, weight: LinearWeight, bias: Tensor | None = None) -> Tensor:
    """Multiply x [..., k] by the weight [n, k]; returns [..., n]."""
    if weight.fp8 is not None:
        return fp8_linear(x, weight.fp8, bias)
    if weight.four_bit is not None:
        return _multiply_four_bit(x, weight.four_bit, bias)
    if weight.fbgemm is not None:
        return _multiply_float16(x, weight, bias)
    if weight.onednn is not None:
        return _multiply_bfloat16(x, weight.onednn, bias)
    assert weight.plain is not None
    if bias is None and vector_linear.takes(x, weight.plain):
        return vector_linear.vector_linear(x, weight.plain)
    if bias is None and skinny_linear.takes(x, weight.plain):
        return skinny_linear.skinny_linear(x, weight.plain)
    return _multiply_plain(x, weight.plain, bias)


def linear_silu_mul(x: Tensor, weight: LinearWeight, bias: Tensor | None = None) -> Tensor:
    """Multiply x [num_rows, k] by the weight [2 * d, k], and apply `silu_mul`; returns [num_rows, d]."""
    if weight.fp8 is not None:
        return fp8_linear_silu_mul(x, weight.fp8, bias)
    if bias is None and weight.plain is not None and vector_linear.takes(x, weight.plain):
        return vector_linear.gated_vector_linear(x, weight.plain)
    if bias is None and weight.plain is not None and skinny_linear.takes(x, weight.plain):
        return skinny_linear.gated_skinny_linear(x, weight.plain)
    return silu_mul(linear(x, weight, bias))


def linear_into(x: Tensor, weight: LinearWeight, out: Tensor) -> Tensor:
    """Multiply x [m, k] by the weight [n, k] into `out` [m, n], and return it."""
    if x.is_cuda:
        assert weight.plain is not None
        if vector_linear.takes(x, weight.plain):
            return vector_linear.vector_linear(x, weight.plain, out)
        if skinny_linear.takes(x, weight.plain):
            return skinny_linear.skinny_linear(x, weight.plain, out)
        return torch.mm(x, weight.plain.t(), out=out)
    return out.copy_(linear(x, weight))


def _multiply_four_bit(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Few rows multiply as they are; for more, a piece of the weight at a time is widened to float32."""
    if few_rows.multiplies(x):
        return few_rows.linear_four_bit(x, weight, bias)
    num_outputs, size = weight.shape[0], x.shape[-1]
    rows = x.reshape(-1, size)
    out = rows.new_empty(len(rows), num_outputs)
    num_rows = max(1, SCRATCH_ELEMENTS // size)
    scratch = rows.new_empty(min(num_rows, num_outputs), size)
    for start in range(0, num_outputs, num_rows):
        piece = scratch[: min(num_rows, num_outputs - start)]
        few_rows.widen_four_bit(weight[start : start + num_rows], piece)
        torch.mm(rows, piece.t(), out=out[:, start : start + num_rows])
    if bias is not None:
        out += bias
    return out.view(*x.shape[:-1], num_outputs)


def _multiply_bfloat16(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Round activations for the product alone, where they are wider."""
    if x.dtype == torch.bfloat16:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    product = torch.ops.mkldnn._linear_pointwise(x.bfloat16(), weight, None, "none", [], "").to(x.dtype)
    return product if bias is None else product.add_(bias)


def _multiply_float16(x: Tensor, weight: LinearWeight, bias: Tensor | None) -> Tensor:
    if weight.plain is not None and weight.plain.dtype == torch.bfloat16 and few_rows.multiplies(x):
        return few_rows.linear_bfloat16(x, weight.plain, bias)
    product: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, weight.fbgemm)
    return product if bias is None else product.add_(bias)


def _multiply_plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.dtype != weight.dtype:
        product = functional.linear(x.to(weight.dtype), weight).to(x.dtype)
        return product if bias is None else product.add_(bias)
    if x.is_cuda or x.dtype != torch.float32 or not 1 < x.numel() // x.shape[-1] <= MAX_TALL_ROWS:
        return functional.linear(x, weight, bias)
    product = torch.mm(weight, x.reshape(-1, x.shape[-1]).t()).t().contiguous()
    if bias is not None:
        product += bias
    return product.view(*x.shape[:-1], -1)


def _fbgemm_takes(weight: Tensor) -> bool:
    """Return whether this build of torch has FBGEMM for this CPU, and float16 holds the weight."""
    return "fbgemm" in torch.backends.quantized.supported_engines and bool(weight.abs().max() <= MAX_FLOAT16)
