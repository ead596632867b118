"""What the engine has sent for one sequence and its reader has not taken yet: one value."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from engine.messages import EngineRequest, FinishReason, RequestOutput
    from server.engine import Engine


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
    """An outlet for a reader who comes for it: outputs that come while it is away are merged."""

    def __init__(self, abort: Callable[[], None]) -> None:
        """`abort` is called if the reader leaves early."""
        self._abort = abort
        self._output: RequestOutput | None = None
        self._error: BaseException | None = None
        self._arrived = asyncio.Event()

    def put(self, output: RequestOutput) -> None:
        """Add an output."""
        self._output = output if self._output is None else merge(self._output, output)
        self._arrived.set()

    def fail(self, error: BaseException) -> None:
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
                self._abort()


def outputs_of(engine: Engine, request: EngineRequest) -> AsyncGenerator[RequestOutput, None]:
    """Queue a sequence now and return its outputs, the last of which has a finish reason.

    A slow reader holds one value, not a queue. Closing the iterator early aborts the sequence.

    Raises:
        EngineUnavailableError: at once or from the iterator; the sequence will bring no more.
    """
    mailbox = Mailbox(functools.partial(engine.abort, request.request_id))
    engine.submit(request, mailbox)
    return mailbox.outputs()
