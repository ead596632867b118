"""A step that was launched: its tokens are on their way to the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.pooler import Pooled
from engine.step import SampledToken, StepResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.messages import TokenLogprobs


class PendingStep:
    """Reads a step's tokens back without holding up what was launched after it.

    Args:
        rows: the row of each sampled token.
        token_ids: [num_rows] int64 on the device; it may be overwritten by later steps.
        logprobs: of each sampled token, if the step brought any.
        prompt_logprobs: by row.
        pooled: of the rows whose vectors are complete.
    """

    def __init__(
        self,
        rows: Sequence[int],
        token_ids: Tensor,
        logprobs: Sequence[TokenLogprobs | None] | None,
        prompt_logprobs: dict[int, list[TokenLogprobs]],
        pooled: Pooled | None = None,
    ) -> None:
        self._rows = rows
        self._token_ids = token_ids
        self._logprobs = logprobs
        self._prompt_logprobs = prompt_logprobs
        self._pooled = pooled
        self._copied: torch.cuda.Event | None = None
        if token_ids.is_cuda:
            self._token_ids = to_host(token_ids)
            if pooled is not None:
                self._pooled = Pooled(pooled.rows, to_host(pooled.vectors))
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def collect(self) -> StepResult:
        """Wait for the tokens."""
        if self._copied is not None:
            self._copied.synchronize()
        token_ids: list[int] = self._token_ids.tolist()
        logprobs = self._logprobs or [None] * len(token_ids)
        return StepResult(
            sampled=tuple(map(SampledToken, self._rows, token_ids, logprobs)),
            prompt_logprobs=self._prompt_logprobs,
            embeddings={} if self._pooled is None else self._pooled.embeddings(),
        )


def to_host(tensor: Tensor) -> Tensor:
    """Begin to copy a tensor from the device; the copy is there once what was launched before it is done."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return copy.copy_(tensor, non_blocking=True)
