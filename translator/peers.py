"""The other processes of this translator: each can be asked for what it alone holds.

They speak gRPC over sockets in a folder that nobody else may look into, so nobody is asked for a key here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio
import msgspec

from translator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from starlette.types import ASGIApp, Message, Scope

    from translator.config import Worker

    Answers = Mapping[str, Callable[[bytes], Awaitable[bytes]]]
    Context = grpc.aio.ServicerContext[bytes, bytes]

TIMEOUT_S = 5.0
"""For a short question, and for the head of an answer. A process that died is back before, as a rule."""
SILENT_TIMEOUT_S = 1.0
"""For a short question to a process that left the last one without an answer: it may be frozen."""
_SERVICE = "pagewire.translator.Peers"
_RELAY = "Relay"
_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
# A process that was not there yet, or comes back, is found at once.
_CHANNEL_OPTIONS = (
    *_OPTIONS,
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 250),
)


class Relayed(msgspec.Struct, frozen=True):
    """A request that has passed the gate, for the process that can answer it."""

    method: str
    path: str
    query: bytes
    request_id: str
    owner: str


class Head(msgspec.Struct, frozen=True):
    """How an answer begins."""

    status: int
    headers: list[tuple[bytes, bytes]]

    @property
    def is_stream(self) -> bool:
        """Whether events follow."""
        return dict(self.headers).get(b"content-type", b"").startswith(b"text/event-stream")


class Peers:
    """Asks the others. Made within a running event loop."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._channels = {
            index: grpc.aio.insecure_channel(worker.socket_of(index), _CHANNEL_OPTIONS)
            for index in range(worker.count)
            if index != worker.index
        }
        self._silent: set[int] = set()

    @property
    def own_index(self) -> int:
        """Of this process."""
        return self._worker.index

    def __contains__(self, index: int) -> bool:
        return index in self._channels

    async def ask(self, index: int, kind: str, question: object) -> bytes:
        """Return a peer's answer.

        Raises:
            ApiError: 503; the peer does not answer, because it is gone for example.
        """
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        method = self._channels[index].unary_unary(f"/{_SERVICE}/{kind}")
        timeout_s = SILENT_TIMEOUT_S if index in self._silent else TIMEOUT_S
        try:
            answer = await method(msgspec.msgpack.encode(question), timeout=timeout_s, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            self._silent.add(index)
            raise gone() from error
        self._silent.discard(index)
        return answer

    async def ask_all(self, kind: str, question: object) -> dict[int, bytes | None]:
        """Return the answer of each peer, by its index; None of those who do not answer."""

        async def ask(index: int) -> bytes | None:
            try:
                return await self.ask(index, kind, question)
            except ApiError:
                return None

        answers = await asyncio.gather(*map(ask, self._channels))
        return dict(zip(self._channels, answers, strict=True))

    def relay(self, index: int, request: Relayed) -> Relay:
        """Let a peer answer a request."""
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
        method = self._channels[index].unary_stream(f"/{_SERVICE}/{_RELAY}")
        return Relay(method(msgspec.msgpack.encode(request), wait_for_ready=True))

    async def close(self) -> None:
        """Close the connections."""
        for channel in self._channels.values():
            await channel.close()


class Relay:
    """A request that a peer answers. Whoever opened it calls `cancel` in the end."""

    def __init__(self, call: grpc.aio.UnaryStreamCall[bytes, bytes]) -> None:
        self._call = call

    async def head(self) -> Head:
        """Wait until the answer begins.

        Raises:
            ApiError: 503; the peer is not there, or says nothing.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return msgspec.msgpack.decode(cast("bytes", await self._call.read()), type=Head)
        except (grpc.aio.AioRpcError, TimeoutError) as error:
            raise gone() from error

    async def body(self) -> AsyncGenerator[bytes, None]:
        """Yield the answer's pieces, after its head.

        Raises:
            ApiError: 503; the peer has gone.
        """
        try:
            while (piece := await self._call.read()) is not grpc.aio.EOF:
                yield cast("bytes", piece)
        except grpc.aio.AioRpcError as error:
            raise gone() from error

    async def whole(self) -> bytes:
        """Return the whole body."""
        return b"".join([piece async for piece in self.body()])

    def cancel(self) -> None:
        """Give the answer up, if there is more of it."""
        self._call.cancel()


def gone() -> ApiError:
    """Return the error of a request that needs a peer who does not answer."""
    return ApiError(503, "The process that may hold it does not answer.", code="unavailable", retry_after_s=1)


class PeerServer:
    """Answers the others."""

    def __init__(self, worker: Worker, app: ASGIApp, answers: Answers) -> None:
        """`app` answers what is relayed, and `answers` the questions, by their kinds."""
        self._app = app
        self._server = grpc.aio.server(options=_OPTIONS)
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            kind: grpc.unary_unary_rpc_method_handler(_unary(answer)) for kind, answer in answers.items()
        }
        handlers[_RELAY] = grpc.unary_stream_rpc_method_handler(self._relay)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        self._server.add_insecure_port(worker.socket_of(worker.index))

    async def start(self) -> None:
        """Begin to answer."""
        await self._server.start()

    async def stop(self) -> None:
        """Answer no more."""
        await self._server.stop(None)

    async def _relay(self, question: bytes, context: Context) -> None:
        asked = msgspec.msgpack.decode(question, type=Relayed)
        scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "scheme": "http",
            "method": asked.method,
            "path": asked.path,
            "raw_path": asked.path.encode(),
            "root_path": "",
            "query_string": asked.query,
            "headers": [],
            "client": None,
            "server": None,
            "state": {"request_id": asked.request_id, "owner": asked.owner, "is_operator": False},
        }
        is_read, is_gone = False, asyncio.Event()
        context.add_done_callback(lambda _: is_gone.set())  # type: ignore[arg-type] # a wrong stub

        async def receive() -> Message:
            nonlocal is_read
            if not is_read:
                is_read = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await is_gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                head = Head(message["status"], list(message["headers"]))
                await context.write(msgspec.msgpack.encode(head))
            elif message["body"]:
                await context.write(message["body"])

        await self._app(scope, receive, send)


def _unary(answer: Callable[[bytes], Awaitable[bytes]]) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def serve(question: bytes, _: Context) -> bytes:
        return await answer(question)

    return serve
