"""A call that has come through a front."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, NoReturn, cast

import grpc
import grpc.aio

from server.front_messages import End, Read, Write

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from server.front_messages import Metadata, Opened, Order

    Handler = grpc.RpcMethodHandler[Any, Any]
    Find = Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]

logger = logging.getLogger(__name__)


class FrontCall:
    """Has what handlers of ours use of `grpc.aio.ServicerContext`, and runs one of them."""

    def __init__(self, opened: Opened, send: Callable[[Order], None]) -> None:
        self._opened = opened
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._handler: Handler | None = None
        self._trailing_metadata: Metadata = ()
        self._received: asyncio.Future[bytes | None] | None = None
        self._written: asyncio.Future[None] | None = None
        self._callbacks: list[Callable[[FrontCall], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._has_left = False

    def start(self, find: Find, on_end: Callable[[], None]) -> None:
        """Serve the call by the handler that `find` returns, and call back when that is over."""
        self._task = asyncio.create_task(self._serve(find))
        self._task.add_done_callback(lambda _: self._call_back(on_end))

    def take(self, message: bytes | None) -> None:
        """Hear what was read, or that there is no more."""
        if self._received is not None and not self._received.done():
            self._received.set_result(message)

    def note_written(self) -> None:
        """Hear that there is room for another message."""
        if self._written is not None and not self._written.done():
            self._written.set_result(None)

    def leave(self) -> None:
        """Hear that the caller has gone: the handler is cancelled, once, as gRPC would do it."""
        if self._has_left:
            return
        self._has_left = True
        assert self._task is not None
        self._task.cancel()
        for awaited in (self._received, self._written):
            if awaited is not None:
                awaited.cancel()

    async def ended(self) -> None:
        """Wait until the handler is over."""
        assert self._task is not None
        await asyncio.wait({self._task})

    def invocation_metadata(self) -> Metadata:
        """See `grpc.aio.ServicerContext`, as for all that follow."""
        return self._opened.invocation_metadata

    def peer(self) -> str:
        """Return the caller's address, in gRPC's manner."""
        return self._opened.peer

    def time_remaining(self) -> float | None:
        """Return the seconds that the caller still waits."""
        deadline_s = self._opened.deadline_s
        return None if deadline_s is None else max(0.0, deadline_s - time.monotonic())

    def set_trailing_metadata(self, trailing_metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """Send this at the end."""
        self._trailing_metadata = tuple(trailing_metadata)

    def add_done_callback(self, callback: Callable[[FrontCall], None]) -> None:
        """Call back when the handler is over."""
        self._callbacks.append(callback)

    async def read(self) -> bytes | None:
        """Return the next message of the caller's; None at their end."""
        self._received = self._loop.create_future()
        self._send(Read(self._opened.call))
        return await self._received

    def write(self, message: Any) -> asyncio.Future[None]:
        """Send a message; the future, which costs no task, is done when the transport has taken it."""
        self._written = self._loop.create_future()
        self._send(Write(self._opened.call, self._serialized(message)))
        return self._written

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        """End the call with a status. Raises grpc.aio.AbortError."""
        self._end(None, code, details, trailing_metadata)
        raise grpc.aio.AbortError("the call has its status")

    async def _serve(self, find: Find) -> None:
        try:
            self._handler = handler = await find(cast("grpc.HandlerCallDetails", self._opened))
            if handler is None:
                self._end(None, grpc.StatusCode.UNIMPLEMENTED, "Method not found!", ())
                return
            message = await self._answer(handler)
            self._end(message, grpc.StatusCode.OK, "", self._trailing_metadata)
        except grpc.aio.AbortError:
            pass
        except asyncio.CancelledError:
            if not self._has_left:  # a stray one, or the caller would wait for ever
                self._end(None, grpc.StatusCode.INTERNAL, "internal error", ())
            raise
        except Exception:
            logger.exception("the handler of %s failed", self._opened.method)
            self._end(None, grpc.StatusCode.INTERNAL, "internal error", ())

    async def _answer(self, handler: Handler) -> bytes | None:
        """Run the handler; return the response of a unary one."""
        behavior: Any = handler.unary_unary or handler.unary_stream or handler.stream_stream
        request: Any = self._requests(handler) if handler.request_streaming else await self.read()
        if request is None:
            # As in gRPC: the caller has sent no request, and goes without an answer.
            await asyncio.Event().wait()
        answer = behavior(request, self)
        if hasattr(answer, "__aiter__"):
            async for message in answer:
                await self.write(message)
            return None
        response = await answer
        return None if handler.response_streaming else self._serialized(response)

    async def _requests(self, handler: Handler) -> AsyncIterator[Any]:
        deserialize: Any = handler.request_deserializer or bytes
        while (message := await self.read()) is not None:
            yield deserialize(message)

    def _serialized(self, message: Any) -> bytes:
        assert self._handler is not None
        serialize: Any = self._handler.response_serializer or bytes
        return bytes(serialize(message))

    def _end(
        self, message: bytes | None, code: grpc.StatusCode, details: str, trailing_metadata: Metadata
    ) -> None:
        self._send(End(self._opened.call, message, int(code.value[0]), details, trailing_metadata))

    def _call_back(self, on_end: Callable[[], None]) -> None:
        on_end()
        for callback in self._callbacks:
            callback(self)
