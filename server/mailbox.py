"""What the engine has sent for one sequence and its reader has not taken yet: one value."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from engine.messages import FinishReason, RequestOutput
    from server.histogram import Histogram


def merge(earlier: RequestOutput, later: RequestOutput) -> RequestOutput:
    """Return one output that says what two outputs of a sequence said one after the other."""
    cached, prompt_logprobs = earlier.num_cached_tokens, earlier.prompt_logprobs
    return msgspec.structs.replace(
        later,
        token_ids=earlier.token_ids + later.token_ids,
        logprobs=earlier.logprobs + later.logprobs,
        num_cached_tokens=later.num_cached_tokens if cached is None else cached,
        prompt_logprobs=later.prompt_logprobs if prompt_logprobs is None else prompt_logprobs,
        began_s=later.began_s if earlier.began_s is None else earlier.began_s,
    )


class Mailbox:
    """Holds one sequence's output for its reader. Outputs that come while it is away are merged."""

    def __init__(self, request_id: str, abort: Callable[[str], None], token_gaps: Histogram) -> None:
        """`token_gaps` counts the seconds between the sequence's tokens."""
        self._token_gaps = token_gaps
        self._last_token_s: float | None = None
        self._request_id = request_id
        self._abort = abort
        self._output: RequestOutput | None = None
        self._error: Exception | None = None
        self._arrived = asyncio.Event()

    def put(self, output: RequestOutput) -> None:
        """Add an output."""
        if output.token_ids:
            self._note_gap(len(output.token_ids))
        self._output = output if self._output is None else merge(self._output, output)
        self._arrived.set()

    def _note_gap(self, num_tokens: int) -> None:
        now_s = time.monotonic()
        if self._last_token_s is not None:
            self._token_gaps.observe((now_s - self._last_token_s) / num_tokens, num_tokens)
        self._last_token_s = now_s

    def fail(self, error: Exception) -> None:
        """End the outputs with an error, after those that have arrived."""
        self._error = error
        self._arrived.set()

    async def outputs(self) -> AsyncGenerator[RequestOutput, None]:
        """Yield outputs up to the one with a finish reason. Closing early aborts the sequence."""
        reason: FinishReason | None = None
        try:
            while reason is None:
                await self._arrived.wait()
                self._arrived.clear()
                output, self._output = self._output, None
                if output is not None:
                    reason = output.finish_reason
                    yield output
                if self._error is not None and reason is None:
                    raise self._error
        finally:
            if reason is None and self._error is None:
                self._abort(self._request_id)
