"""A front: `python -m server.front --channel-fd N --config JSON`, started by the server.

It speaks gRPC for the server, which is most of what a call costs, and knows neither methods nor messages. It
ends with code 0 when the server says so, is gone or is frozen, and with 1 where it cannot listen.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import itertools
import logging
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, cast

import grpc
import grpc.aio

from gate.certificates import CertificateError
from pagewire.operation import begin
from server.front_channel import FrontChannel
from server.front_messages import (
    End,
    Failed,
    FrontConfig,
    Left,
    Listening,
    Opened,
    Order,
    Read,
    Received,
    Report,
    Stop,
    Write,
    Written,
    decode_config,
    decode_order,
)
from server.listeners import MAX_METADATA, PortError, bind
from server.memory_return import return_memory
from server.tls import server_credentials
from watch import heap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    Context = grpc.aio.ServicerContext[bytes, bytes]
    Send = Callable[[Report], None]

logger = logging.getLogger("server.front")  # not "__main__"

_LEAVE_GRACE_S = 1.0
"""For statuses that wait behind messages which nobody reads."""
CODES = {int(code.value[0]): code for code in grpc.StatusCode}


class Relay(grpc.GenericRpcHandler):
    """Passes calls on, whatever their methods are."""

    def __init__(self, config: FrontConfig) -> None:
        self._config = config
        self._channel = FrontChannel(
            decode_order, self._take, lambda: self._stop(0.0), self._leave_frozen_server
        )
        self._numbers = itertools.count()
        self._calls: dict[int, RelayedCall] = {}
        self._stopped: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def serve(self, connection: socket.socket) -> int:
        """Listen until the server says so, is gone or is frozen, and return the process's exit code."""
        config = self._config
        await self._channel.open(connection)
        self._channel.watch(config.silence_timeout_s)
        server = grpc.aio.server(handlers=[self], options=list(config.options.items()))
        try:
            credentials = None if config.tls is None else server_credentials(config.tls)
            bind(server, config.host, config.port, "--port", credentials)
        except (CertificateError, PortError) as error:
            self._channel.send(Failed(str(error)))
            self._channel.close()
            return 1
        await server.start()
        heap.settle()
        self._channel.send(Listening())
        returning = asyncio.create_task(return_memory())
        await server.stop(await self._stopped)
        returning.cancel()
        self._channel.close()
        heap.unsettle()
        return 0

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Serve a call of any method; a stream, because the server decides what is read and written."""
        serve = functools.partial(self._serve, handler_call_details.method)
        return grpc.stream_stream_rpc_method_handler(serve)

    async def _serve(self, method: str, requests: AsyncIterator[bytes], context: Context) -> None:
        metadata = tuple(context.invocation_metadata() or ())
        if size_of(metadata) > self._config.options[MAX_METADATA]:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the metadata is too large")
        number = next(self._numbers)
        call = self._calls[number] = RelayedCall(number, context, self._channel.send)
        # None where there is no deadline, whatever the stub says
        remaining_s = cast("float | None", context.time_remaining())
        deadline_s = None if remaining_s is None else time.monotonic() + remaining_s
        self._channel.send(Opened(number, method, metadata, context.peer(), deadline_s))
        try:
            end = await call.end
        except asyncio.CancelledError:
            self._channel.send(Left(number))
            raise
        finally:
            del self._calls[number]
        await call.finish(end)

    def _take(self, order: Order) -> None:
        if isinstance(order, Stop):
            self._stop(order.grace_s)
        elif (call := self._calls.get(order.call)) is not None:  # it may have left meanwhile
            call.take(order)

    def _leave_frozen_server(self) -> None:
        logger.error("the server has been silent for %g s", self._config.silence_timeout_s)
        code, text = grpc.StatusCode.UNAVAILABLE, "the server does not answer"
        for number, call in self._calls.items():
            call.take(End(number, None, int(code.value[0]), text, ()))
        self._stop(_LEAVE_GRACE_S)

    def _stop(self, grace_s: float) -> None:
        if not self._stopped.done():
            self._stopped.set_result(grace_s)


def size_of(metadata: Iterable[tuple[str, str | bytes]]) -> int:
    """Return the bytes that HTTP/2 counts. A few on the wire may name a long value again and again.

    gRPC lets such headers pass its own limit; what is copied to the server must not.
    """
    return sum(len(key) + len(value) + 32 for key, value in metadata)


class RelayedCall:
    """A call that the server serves."""

    def __init__(self, number: int, context: Context, send: Send) -> None:
        self._number = number
        self._context = context
        self._send = send
        self.end: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._reading: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None

    def take(self, order: Read | Write | End) -> None:
        """Do what the server says. It has one message read, and one written, at a time."""
        match order:
            case Read():
                self._reading = begin(self._read())
            case Write(_, message):
                self._begin_write(message)
            case End():
                if not self.end.done():  # the caller may have left in this turn of the loop
                    self.end.set_result(order)

    async def finish(self, end: End) -> None:
        """Send what is at the end of a call, behind what is on its way."""
        if end.message is not None:
            self._begin_write(end.message)
        if self._writing is not None:
            await asyncio.wait({self._writing})
        if end.code:
            await self._context.abort(CODES[end.code], end.details, end.trailing_metadata)
        self._context.set_trailing_metadata(end.trailing_metadata)

    async def _read(self) -> None:
        message: object = await self._context.read()
        self._send(Received(self._number, message if isinstance(message, bytes) else None))

    def _begin_write(self, message: bytes) -> None:
        self._writing = begin(self._write(message))

    async def _write(self, message: bytes) -> None:
        with contextlib.suppress(grpc.aio.BaseError):  # the caller has gone, which ends the call
            await self._context.write(message)
            self._send(Written(self._number))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process. Return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m server.front", description=__doc__)
    parser.add_argument("--channel-fd", type=int, required=True, help="descriptor of a stream socket")
    parser.add_argument("--config", required=True, help="a FrontConfig as JSON")
    arguments = parser.parse_args(argv)
    heap.share_arena()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # they may reach us too, but the server decides
    connection = socket.socket(fileno=arguments.channel_fd)
    connection.set_inheritable(False)
    return asyncio.run(_serve(connection, decode_config(arguments.config)))


async def _serve(connection: socket.socket, config: FrontConfig) -> int:
    return await Relay(config).serve(connection)


if __name__ == "__main__":
    sys.exit(main())
