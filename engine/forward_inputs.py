"""What one forward pass is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from kernels.paged_attention import AttentionMetadata


@dataclass(frozen=True, slots=True)
class ForwardInputs:
    """The tokens of one step, all sequences one after the other, on the device."""

    token_ids: Tensor
    """[num_tokens] int32 or int64."""
    positions: Tensor
    """[num_tokens] int64, each in its own sequence."""
    slots: Tensor
    """[num_tokens] int64: where each token's keys and values go; -1 is nowhere."""
    attention: AttentionMetadata
