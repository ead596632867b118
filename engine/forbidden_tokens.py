"""Tokens that may not be chosen: by the masks of grammars, and by words that must not appear."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.upload import to_device, upload
from kernels.token_bitmask import token_bitmask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_ANY, _NONE = -1, -2


def apply_masks(logits: Tensor, masks: Sequence[bytes | None]) -> None:
    """Forbid, in place, what the masks do not allow.

    Args:
        logits: [num_rows, vocab].
        masks: a bit for each token, of the rows that have a mask.
    """
    masked = [index for index, mask in enumerate(masks) if mask is not None]
    if not masked:
        return
    joined = bytearray().join(mask for mask in masks if mask is not None)
    bits = torch.frombuffer(joined, dtype=torch.int32).view(len(masked), -1)
    token_bitmask(logits, upload(masked, torch.int64, logits.device), to_device(bits, logits.device))


class BadWords:
    """Token sequences that one row must not generate: the last token of each is forbidden after the others.

    Args:
        words: none empty.
        device: of the logits.
    """

    def __init__(self, words: Sequence[Sequence[int]], device: torch.device) -> None:
        self.num_tokens = max(len(word) for word in words) - 1
        """Tokens before the last, of the longest word."""
        befores = [[_ANY] * (self.num_tokens - len(word) + 1) + list(word[:-1]) for word in words]
        self._befores = upload(befores, torch.int32, device).view(len(words), self.num_tokens)
        self._lasts = upload([word[-1] for word in words], torch.int64, device)

    def forbid(self, logits: Tensor, generated: Tensor) -> None:
        """Forbid the ends of words, in place.

        Args:
            logits: [vocab].
            generated: the row's newest tokens, at most `num_tokens`.
        """
        missing = self.num_tokens - len(generated)
        newest = torch.nn.functional.pad(generated, (missing, 0), value=_NONE)
        is_next = ((self._befores == newest) | (self._befores == _ANY)).all(-1)
        logits.index_add_(0, self._lasts, torch.where(is_next, -torch.inf, 0.0).to(logits.dtype))
