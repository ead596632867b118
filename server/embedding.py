"""One accepted embedding request while it runs: a sequence in the engine for each input."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from typing import TYPE_CHECKING

import numpy as np

from engine.messages import EngineRequest, FinishReason, SamplingParams
from pagewire.v1 import inference_pb2
from server.errors import NumericalError, QueueTimeoutError, RequestLostError
from server.fields import invalid
from server.mailbox import outputs_of

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Iterator, Sequence

    from engine.messages import RequestOutput
    from server.caller import Caller
    from server.embedding_request import EmbeddingRequest
    from server.engine import Engine

# Inputs of one request that the engine has at a time. The rest leaves room for others.
MAX_AT_ONCE = 512

_NO_SAMPLING = SamplingParams(max_tokens=1)
_serial_numbers = itertools.count()


class Embedding:
    """Runs one request. Create it and await `vectors` once."""

    def __init__(
        self,
        engine: Engine,
        request: EmbeddingRequest,
        inputs: Sequence[array[int]],
        caller: Caller,
        on_start: Callable[[], None],
    ) -> None:
        """Prepare the request.

        Args:
            engine: computes the vectors.
            request: what is asked for.
            inputs: token ids of each input.
            caller: who asks.
            on_start: called once the engine has begun.
        """
        self._engine = engine
        self._request = request
        self._inputs = inputs
        self._caller = caller
        self._prefix = f"{caller.request_id}#e{next(_serial_numbers)}"
        self._on_start = on_start
        self._vectors: list[bytes | None] = [None] * len(inputs)
        self._queue_timer: asyncio.Timeout | None = None

    async def vectors(self) -> list[bytes]:
        """Return the inputs' vectors in float32, in their order.

        Raises:
            ServiceError: the request failed.
            EngineUnavailableError: the engine was lost.
        """
        timeout_s = self._request.queue_timeout_s
        remaining_s = None if timeout_s is None else timeout_s - (time.monotonic() - self._caller.arrived_s)
        indices = iter(range(len(self._inputs)))
        workers = [
            asyncio.ensure_future(self._work(indices)) for _ in range(min(MAX_AT_ONCE, len(self._inputs)))
        ]
        try:
            async with asyncio.timeout(remaining_s) as self._queue_timer:
                await asyncio.gather(*workers)
        except TimeoutError as error:
            raise QueueTimeoutError(f"the request waited for more than {timeout_s:g} seconds") from error
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return [vector for vector in self._vectors if vector is not None]

    def abort(self) -> None:
        """Free what the request holds in the engine. May be called at any time, more than once."""
        for index, vector in enumerate(self._vectors):
            if vector is None:
                self._engine.abort(self._sequence_id(index))

    def _sequence_id(self, index: int) -> str:
        return f"{self._prefix}.{index}"

    async def _work(self, indices: Iterator[int]) -> None:
        """Run one input after another, as long as there are some."""
        for index in indices:
            outputs = outputs_of(
                self._engine,
                EngineRequest(
                    request_id=self._sequence_id(index),
                    prompt_token_ids=self._inputs[index],
                    sampling=_NO_SAMPLING,
                    priority=self._request.priority,
                    cache_salt=self._request.cache_salt,
                    bypass_prefix_cache=self._request.bypass_prefix_cache,
                    pooling=self._request.pooling,
                    tenant=self._caller.tenant,
                    weight=self._caller.weight,
                    deadline_s=self._caller.deadline_to_begin_s(
                        self._request.queue_timeout_s if len(self._inputs) == 1 else None
                    ),
                ),
            )
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    self._note_start()
                    self._take(index, output)

    def _note_start(self) -> None:
        if self._queue_timer is not None:
            self._queue_timer.reschedule(None)
            self._queue_timer = None
            self._on_start()

    def _take(self, index: int, output: RequestOutput) -> None:
        match output.finish_reason:
            case FinishReason.ABORTED:
                raise RequestLostError("the request was ended before it was complete")
            case FinishReason.EXPIRED:
                raise QueueTimeoutError("it was too late to begin")
            case FinishReason.FAILED if output.error == "request_too_large":
                raise invalid(f"inputs[{index}]", "the input can never fit the server's cache; shorten it")
            case FinishReason.FAILED:
                raise NumericalError(f"the model failed: {output.error}")
            case FinishReason.STOP:
                assert output.embedding is not None, "the engine gave no vector"
                self._vectors[index] = output.embedding


def make_response(
    name: str, vectors: Sequence[bytes], request: EmbeddingRequest, inputs: Sequence[Sequence[int]]
) -> inference_pb2.EmbedResponse:
    """Cut and scale vectors, and put them into a response. It takes CPU time."""
    matrix = np.stack([np.frombuffer(vector, "<f4") for vector in vectors])[:, : request.num_dimensions]
    if request.normalizes:
        norms = np.linalg.norm(matrix.astype(np.float64), axis=1, keepdims=True)
        matrix = (matrix / np.where(norms > 0, norms, 1.0)).astype(np.float32)
    return inference_pb2.EmbedResponse(
        model=name,
        embeddings=[
            inference_pb2.Embedding(values=row.tolist(), num_tokens=len(token_ids))
            for row, token_ids in zip(matrix, inputs, strict=True)
        ],
        num_prompt_tokens=sum(map(len, inputs)),
    )
