"""The ports that the server listens on."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import grpc
import grpc.aio
from grpc_reflection.v1alpha import reflection, reflection_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.gate import Gate

MAX_METADATA = "grpc.absolute_max_metadata_size"
OPTIONS: dict[str, int] = {
    "grpc.so_reuseport": 0,  # a second server on this port is an error, not a silent twin
    # Few, so that who opens and resets calls as fast as they can costs the others little. Clients of ours
    # open another connection for more; other clients wait, or do so too.
    "grpc.max_concurrent_streams": 128,
    # What has arrived on all connections and is not looked at yet. Beyond, gRPC cancels calls at random:
    # it is for us to refuse them, and to say why.
    "grpc.server.max_pending_requests": 20_000,
    "grpc.server.max_pending_requests_hard_limit": 40_000,
    # Clients look names up when they connect: so they find new replicas, and proxies spread again what they
    # pass on. A connection ends when the calls on it have.
    "grpc.max_connection_age_ms": 600_000,
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.ping_timeout_ms": 5_000,
    "grpc.http2.min_ping_interval_without_data_ms": 5_000,
    "grpc.max_metadata_size": 8 * 1024,
    MAX_METADATA: 16 * 1024,
}
"""gRPC takes no notice of a name that it does not know: `server.libraries` looks whether it knows these."""


class PortError(Exception):
    """A port cannot be listened on; the text names flag and value."""


def make_listener(
    handlers: Sequence[grpc.GenericRpcHandler],
    *,
    max_message_bytes: int,
    gate: Gate | None = None,
) -> grpc.aio.Server:
    """Return a server of these handlers that listens nowhere yet. Without a gate it is open to all."""
    options = [*options_for(max_message_bytes).items()]
    server = grpc.aio.server(options=options, interceptors=[] if gate is None else [gate])
    server.add_generic_rpc_handlers(tuple(handlers))
    return server


def options_for(max_message_bytes: int) -> dict[str, int]:
    """Return the options of a server that takes requests of this size."""
    return OPTIONS | {"grpc.max_receive_message_length": max_message_bytes}


def reflection_handler(services: Sequence[str]) -> grpc.GenericRpcHandler:
    """Return a handler that tells of these services, and of itself."""
    servicer = reflection.aio.ReflectionServicer((*services, reflection.SERVICE_NAME))
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, {"ServerReflectionInfo": method})


def bind(
    server: grpc.aio.Server,
    host: str,
    port: int,
    flag: str,
    credentials: grpc.ServerCredentials | None = None,
) -> int:
    """Take a port for a server; 0 takes a free one. Return the port. Without credentials it has no TLS.

    Raises:
        PortError: it cannot be taken.
    """
    address = _address(host)
    try:
        if credentials is None:
            return server.add_insecure_port(f"{address}:{port}")
        return server.add_secure_port(f"{address}:{port}", credentials)
    except RuntimeError as error:
        raise _not_free(host, port, flag) from error


def reserve(host: str, port: int, flag: str) -> tuple[socket.socket, int]:
    """Hold a port for processes that share it; 0 holds a free one. Return the socket that does, and the port.

    Nobody listens on that socket, or the kernel would give it connections.

    Raises:
        PortError: somebody else has the port, alone or with others.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(address)
            address = alone.getsockname()
        shared = socket.socket(family, kind, protocol)
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind(address)
    except OSError as error:
        raise _not_free(host, port, flag) from error
    return shared, int(address[1])


def _address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _not_free(host: str, port: int, flag: str) -> PortError:
    return PortError(
        f"{flag} {port}: cannot listen on {_address(host)}:{port}; expected a free port of this machine"
        " (0 takes any)"
    )
