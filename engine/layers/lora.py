"""Low-rank changes of a linear layer, one for each adapter that lies on the device."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from kernels.lora import LoraTokens, lora_add

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


class LoraStep:
    """Which tokens of the running forward pass take which slot. All layers look here."""

    def __init__(self) -> None:
        self.tokens: LoraTokens | None = None
        """None while no token takes any: then layers compute as if there were no adapters."""

    @contextmanager
    def of(self, slots: Tensor | None) -> Iterator[None]:
        """Within, forward passes are over tokens of these slots [num_tokens] int32; None is no adapter."""
        self.tokens = None if slots is None else LoraTokens.of(slots)
        try:
            yield
        finally:
            self.tokens = None


class LowRank:
    """What adapters add to one linear layer.

    Args:
        step: of the model.
        in_features: of the layer.
        parts: sizes of the outputs that the layer joins.
        num_slots: adapters on the device.
        rank: of the matrices, as `kernels.lora.padded_rank` has it.
        like: a tensor of the type and device of activations.
    """

    def __init__(
        self, step: LoraStep, in_features: int, parts: Sequence[int], num_slots: int, rank: int, like: Tensor
    ) -> None:
        self._step = step
        self._parts = list(parts)
        self._rank = rank
        self._a = like.new_zeros(num_slots, len(parts) * rank, in_features)
        self._b = like.new_zeros(num_slots, sum(parts), rank)

    @property
    def is_active(self) -> bool:
        """Whether the running forward pass needs it."""
        return self._step.tokens is not None

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Add to the layer's output y [..., n] what the tokens' adapters make of its input x [..., k]."""
        tokens = self._step.tokens
        if tokens is None:
            return y
        lora_add(x.flatten(0, -2), y.view(-1, y.shape[-1]), self._a, self._b, self._parts, tokens)
        return y

    def clear(self, slot: int) -> None:
        """Let a slot, from 1, add nothing."""
        self._a[slot - 1].zero_()
        self._b[slot - 1].zero_()

    def write(self, slot: int, part: int, a: Tensor, b: Tensor) -> None:
        """Put matrices [rank, k] and [size of the part, rank], the scale in b, into a cleared slot."""
        first, rank = part * self._rank, len(a)
        start = sum(self._parts[:part])
        self._a[slot - 1, first : first + rank].copy_(a, non_blocking=True)
        self._b[slot - 1, start : start + len(b), :rank].copy_(b, non_blocking=True)
