"""Matrix multiplication whose weight may join several matrices of the checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from kernels.fp8_linear import Fp8Weight
from kernels.linear import LinearWeight, linear, linear_into, linear_silu_mul, prepare_weight
from kernels.silu_mul import silu_mul

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from engine.layers.lora import LowRank
    from engine.precision import Precision


class Linear(nn.Module):
    """y = x W^T + b.

    Args:
        in_features: size of the last dimension of x.
        parts: sizes of the outputs, by the names that the checkpoint has beside this module. One
            multiplication computes all of them.
    """

    def __init__(
        self, in_features: int, parts: Mapping[str, int], *, bias: bool, precision: Precision
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.parts = dict(parts)
        out_features = sum(parts.values())
        self.weight = nn.Parameter(
            torch.empty(out_features, in_features, dtype=precision.weights), requires_grad=False
        )
        self.bias: nn.Parameter | None = None
        if bias:
            self.bias = nn.Parameter(
                torch.empty(out_features, dtype=precision.activations), requires_grad=False
            )
        self._activations, self._factors = precision.activations, precision.factors
        self._quantized = precision.quantized
        self.four_bit: Tensor | None = None
        """The weight as a GGUF file has it, where `kernels.linear` can use that."""
        self._prepared: LinearWeight | None = None
        self.low_rank: LowRank | None = None
        """What LoRA adapters add, where the engine takes any."""

    def prepare(self) -> None:
        """Bring the loaded weight into the form that the device multiplies fastest, and drop the original."""
        if self._quantized is None:
            self._prepared = prepare_weight(self.weight.data, self._factors, self.four_bit)
        else:
            self._prepared = LinearWeight(fp8=Fp8Weight.of(self.weight.data))
        del self.weight
        self.four_bit = None

    @property
    def step_bytes(self) -> int:
        """Bytes of the loaded weight that a step will read: a CPU keeps the four bits that a file has."""
        if self._quantized is not None:
            return self.weight.numel() * self._quantized.itemsize
        stays_four_bit = self.four_bit is not None and not self.weight.is_cuda
        return self.four_bit.nbytes if stays_four_bit and self.four_bit is not None else self.weight.nbytes

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x [..., in_features]; returns [..., sum of parts]."""
        assert self._prepared is not None, "prepare() was not called"
        y = linear(x, self._prepared, self.bias)
        return y if self.low_rank is None else self.low_rank.add(x, y)

    def silu_mul(self, x: Tensor) -> Tensor:
        """Multiply x [num_rows, in_features], and gate the second half of the outputs by the first."""
        assert self._prepared is not None, "prepare() was not called"
        if self.low_rank is not None and self.low_rank.is_active:
            return silu_mul(self(x))
        return linear_silu_mul(x, self._prepared, self.bias)

    def write(self, x: Tensor, out: Tensor) -> Tensor:
        """Multiply x [num_rows, in_features] into `out` [num_rows, sum of parts], and return it."""
        assert self._prepared is not None, "prepare() was not called"
        assert self.bias is None
        return linear_into(x, self._prepared, out)
