"""Calls over as many connections as they need.

A server lets only so many calls share a connection, so that a flood on one costs it little. gRPC makes a call
beyond that wait, without a word, until another one has ended. Here it goes over the next connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio

if TYPE_CHECKING:
    from collections.abc import Sequence

CALLS_PER_CONNECTION = 100
"""Fewer than any server of ours takes."""

# Or channels to one address would share a connection.
_OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)


class SpreadChannel:
    """Has the methods of `grpc.aio.Channel` that stubs need. Connections are made when they are needed."""

    def __init__(
        self,
        target: str,
        options: Sequence[tuple[str, int | str]],
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Without `credentials` calls go in clear text. Make it inside a running event loop."""
        self._target = target
        self._options = (*options, _OWN_CONNECTION)
        self._credentials = credentials
        self._connections = [_Connection(self._connect())]

    @property
    def for_stubs(self) -> grpc.aio.Channel:
        """Itself, as stubs want it."""
        return cast("grpc.aio.Channel", self)

    @property
    def num_connections(self) -> int:
        """Those that have been needed so far."""
        return len(self._connections)

    def unary_unary(self, *method: Any, **settings: Any) -> Any:
        """As in `grpc.aio.Channel`."""
        return _Method(self, "unary_unary", method, settings)

    def unary_stream(self, *method: Any, **settings: Any) -> Any:
        """As in `grpc.aio.Channel`."""
        return _Method(self, "unary_stream", method, settings)

    async def close(self) -> None:
        """End what still runs, and the connections."""
        for connection in self._connections:
            await connection.channel.close()

    def roomy(self) -> _Connection:
        """The first connection that takes another call."""
        for connection in self._connections:
            if connection.num_calls < CALLS_PER_CONNECTION:
                return connection
        self._connections.append(_Connection(self._connect()))
        return self._connections[-1]

    def _connect(self) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(self._target, self._options)
        return grpc.aio.secure_channel(self._target, self._credentials, self._options)


class _Connection:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.num_calls = 0
        self._callables: dict[_Method, Any] = {}

    def start(self, method: _Method, arguments: tuple[Any, ...], settings: dict[str, Any]) -> Any:
        """Start a call, and count it until it ends."""
        if method not in self._callables:
            self._callables[method] = method.of(self.channel)
        call = self._callables[method](*arguments, **settings)
        self.num_calls += 1
        call.add_done_callback(self._note_end)
        return call

    def _note_end(self, _: object) -> None:
        self.num_calls -= 1


class _Method:
    """A method of a service, as stubs keep it."""

    def __init__(
        self, channel: SpreadChannel, kind: str, path: tuple[Any, ...], settings: dict[str, Any]
    ) -> None:
        self._channel = channel
        self._kind = kind
        self._path = path
        self._settings = settings

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        return self._channel.roomy().start(self, arguments, settings)

    def of(self, channel: grpc.aio.Channel) -> Any:
        """The same method over one connection."""
        return getattr(channel, self._kind)(*self._path, **self._settings)
