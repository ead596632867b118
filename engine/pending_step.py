"""A step that was launched: its tokens are on their way to the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine.pooler import Pooled
from engine.step import SampledToken, StepResult
from engine.upload import to_host

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.device_span import DeviceSpan
    from engine.logprobs import PendingLogprobs
    from engine.messages import TokenLogprobs


class Chosen(NamedTuple):
    """The tokens that a step sampled."""

    token_ids: Tensor
    """[num_rows] int64 on the device; it may be overwritten by later steps."""
    logprobs: Sequence[TokenLogprobs | None] | None = None
    """Of each token, where they are known already."""
    described: PendingLogprobs | None = None
    """Those that are on their way from the device."""


class PendingStep:
    """Reads a step's tokens back without holding up what was launched after it.

    Args:
        rows: the row of each sampled token.
        chosen: these tokens.
        prompt_logprobs: by row.
        pooled: of the rows whose vectors are complete.
        span: of the step, which ends here; None on a CPU.
    """

    def __init__(
        self,
        rows: Sequence[int],
        chosen: Chosen,
        prompt_logprobs: dict[int, list[TokenLogprobs]],
        pooled: Pooled | None = None,
        span: DeviceSpan | None = None,
    ) -> None:
        self._rows = rows
        self._token_ids, self._logprobs, self._described = chosen
        self._prompt_logprobs = prompt_logprobs
        self._pooled = pooled
        self._span = span
        assert (span is not None) == self._token_ids.is_cuda, self._token_ids.device
        if span is not None:
            self._token_ids = to_host(self._token_ids)
            if pooled is not None:
                self._pooled = Pooled(pooled.rows, to_host(pooled.vectors))
            span.end()

    def collect(self) -> StepResult:
        """Wait for the tokens."""
        busy_s = None if self._span is None else self._span.wait()
        token_ids: list[int] = self._token_ids.tolist()
        logprobs = list(self._logprobs or [None] * len(token_ids))
        if self._described is not None:
            for place, entry in self._described.collect(token_ids).items():
                logprobs[place] = entry
        return StepResult(
            sampled=tuple(map(SampledToken, self._rows, token_ids, logprobs)),
            prompt_logprobs=self._prompt_logprobs,
            embeddings={} if self._pooled is None else self._pooled.embeddings(),
            busy_s=busy_s,
        )
