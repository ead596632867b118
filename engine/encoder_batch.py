"""A step of an encoder: whole sequences of different lengths, side by side.

Matrices multiply the tokens as they stand, one after the other. Attention and pooling take sequences of
similar length together, padded to the longest of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.messages import Pooling
from engine.upload import upload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

SIMILAR = 1.25
"""Sequences are padded to at most this many times their length, or to SHORT."""
SHORT = 8


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences that stand beside each other, shorter ones first, and are padded to the last one's length."""

    places: Tensor
    """[num_seqs, length] int64: where each token stands among the step's tokens, any place for padding."""
    is_token: Tensor
    """[num_seqs, length] bool: False for padding."""
    kept: Tensor
    """[num_tokens] int64: where the tokens stand among all places."""
    mask: Tensor | None
    """[num_seqs, 1, 1, length] bool: `is_token` for attention; None where nothing is padded."""
    lens: Tensor
    """[num_seqs] int64."""

    @staticmethod
    def make(start: int, lens: Sequence[int], device: torch.device) -> Group:
        """Return the group of sequences whose first one begins at `start`."""
        ends = upload(lens, torch.int64, device)
        columns = torch.arange(lens[-1], device=device)
        is_token = columns < ends[:, None]
        starts = start + ends.cumsum(0) - ends
        kept = [row * lens[-1] + column for row, size in enumerate(lens) for column in range(size)]
        return Group(
            places=torch.where(is_token, starts[:, None] + columns, start),
            is_token=is_token,
            kept=upload(kept, torch.int64, device),
            mask=None if lens[0] == lens[-1] else is_token[:, None, None, :],
            lens=ends,
        )

    def pad(self, x: Tensor) -> Tensor:
        """Lay out x [num_tokens, ...] as [num_seqs, length, ...]."""
        return x.index_select(0, self.places.flatten()).view(*self.places.shape, *x.shape[1:])

    def unpad(self, x: Tensor) -> Tensor:
        """Return the tokens of x [num_seqs, length, ...] one after the other."""
        return x.flatten(0, 1).index_select(0, self.kept)


@dataclass(frozen=True, slots=True)
class EncoderInputs:
    """What the model reads, on the device."""

    token_ids: Tensor
    """[num_tokens] int64."""
    positions: Tensor
    """[num_tokens] int64."""
    groups: list[Group]
    """They follow each other, and make up all tokens."""

    @staticmethod
    def make(sequences: Sequence[Sequence[int]], device: torch.device) -> EncoderInputs:
        """Prepare sequences that are ordered by length."""
        groups, start, first = [], 0, 0
        lens = [len(sequence) for sequence in sequences]
        for end in range(1, len(lens) + 1):
            if end == len(lens) or lens[end] > max(SIMILAR * lens[first], SHORT):
                groups.append(Group.make(start, lens[first:end], device))
                start += sum(lens[first:end])
                first = end
        return EncoderInputs(
            upload([token for sequence in sequences for token in sequence], torch.int64, device),
            upload([position for length in lens for position in range(length)], torch.int64, device),
            groups,
        )


def pool(hidden: Tensor, inputs: EncoderInputs, poolings: Sequence[Pooling]) -> Tensor:
    """Make one vector of each sequence's tokens.

    Args:
        hidden: [num_tokens, hidden_size].
        inputs: where the sequences are.
        poolings: of each sequence.

    Returns:
        [num_seqs, hidden_size] float32.
    """
    ways = {kind: _pool_all(hidden, inputs, kind) for kind in set(poolings)}
    if len(ways) == 1:
        return ways[poolings[0]]
    return torch.stack([ways[kind][index] for index, kind in enumerate(poolings)])


def _pool_all(hidden: Tensor, inputs: EncoderInputs, kind: Pooling) -> Tensor:
    match kind:
        case Pooling.MEAN:
            means = [
                (group.pad(hidden).float() * group.is_token[..., None]).sum(dim=1) / group.lens[:, None]
                for group in inputs.groups
            ]
            return torch.cat(means)
        case Pooling.CLS:
            places = [group.places[:, 0] for group in inputs.groups]
            return hidden[torch.cat(places)].float()
        case Pooling.LAST:
            places = [group.places[:, 0] + group.lens - 1 for group in inputs.groups]
            return hidden[torch.cat(places)].float()
