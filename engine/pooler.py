"""The vectors of pooled sequences: one for each, made of its tokens' hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from engine.errors import ModelLoadError
from engine.messages import Pooling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.batch import Batch
    from engine.step import Chunk


def decoder_poolings(own: Pooling | None) -> tuple[Pooling, ...]:
    """Return the ways in which a decoder can pool, first its own: LAST where it does not say.

    The first token's vector, CLS, knows nothing of what follows it.

    Raises:
        ModelLoadError: its own way is not among them.
    """
    if own is Pooling.CLS:
        raise ModelLoadError("the pooling of the first token is not supported for a decoder")
    return (Pooling.MEAN, Pooling.LAST) if own is Pooling.MEAN else (Pooling.LAST, Pooling.MEAN)


class Pooled(NamedTuple):
    """The vectors that a step completed."""

    rows: Sequence[int]
    vectors: Tensor
    """[num_rows, hidden_size] float32."""

    def embeddings(self) -> dict[int, bytes | None]:
        """Return each row's vector as little-endian float32; None where it is not finite."""
        vectors = self.vectors.cpu()
        is_finite = vectors.isfinite().all(dim=1).tolist()
        values = vectors.numpy().astype("<f4")
        return {
            row: value.tobytes() if finite else None
            for row, value, finite in zip(self.rows, values, is_finite, strict=True)
        }


def pool(batch: Batch, chunks: Sequence[Chunk], hidden: Tensor) -> Pooled | None:
    """Take in a step's hidden states [num_tokens, hidden_size]; return what is complete, if anything.

    Sums are in float32 and stay in the rows from step to step, so a mean needs no more memory for a long
    prompt than for a short one.
    """
    rows: list[int] = []
    vectors: list[Tensor] = []
    first = 0
    for chunk in chunks:
        sequence = batch.row(chunk.row)
        states = hidden[first : first + chunk.num_tokens]
        first += chunk.num_tokens
        if sequence.pooling is None:
            continue
        if sequence.pooling is Pooling.MEAN:
            total = states.float().sum(dim=0)
            sequence.vector_sum = total if sequence.vector_sum is None else sequence.vector_sum + total
        if chunk.start + chunk.num_tokens < sequence.num_prompt_tokens:
            continue
        rows.append(chunk.row)
        if sequence.vector_sum is not None:
            vectors.append(sequence.vector_sum / sequence.num_prompt_tokens)
        else:
            vectors.append(states[-1].float())
    return Pooled(rows, torch.stack(vectors)) if rows else None
