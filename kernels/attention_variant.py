"""What some models add to plain causal attention.

    s = scale * q · k;  s = softcap * tanh(s / softcap);  out = Σ_j exp(s_j) v_j / (exp(sink) + Σ_j exp(s_j))

where j runs over the last `window` tokens up to the query's own. Each part may be absent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class AttentionVariant(NamedTuple):
    """The additions of one layer."""

    window: int | None = None
    """Tokens that a query sees at most, its own included; None sees all."""
    softcap: float | None = None
    """Bounds the scores smoothly."""
    sinks: torch.Tensor | None = None
    """[num_heads]: a score of each head beside those of the tokens, which takes a share and adds no value."""


PLAIN = AttentionVariant()
