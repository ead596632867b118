"""The ports that the server listens on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import grpc.aio
from grpc_reflection.v1alpha import reflection

from server.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gate.key_ring import KeyRing
    from server.gate import OnRefusal

OPTIONS: dict[str, int] = {
    "grpc.so_reuseport": 0,  # a second server on this port is an error, not a silent twin
    # Few, so that who opens and resets calls as fast as they can costs the others little. Clients of ours
    # open another connection for more; other clients wait, or do so too.
    "grpc.max_concurrent_streams": 128,
    # What has arrived on all connections and is not looked at yet. Beyond, gRPC cancels calls at random:
    # it is for us to refuse them, and to say why.
    "grpc.server.max_pending_requests": 20_000,
    "grpc.server.max_pending_requests_hard_limit": 40_000,
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.ping_timeout_ms": 5_000,
    "grpc.http2.min_ping_interval_without_data_ms": 5_000,
    "grpc.max_metadata_size": 8 * 1024,
    "grpc.absolute_max_metadata_size": 16 * 1024,
}
"""gRPC takes no notice of a name that it does not know: `server.libraries` looks whether it knows these."""


class PortError(Exception):
    """A port cannot be listened on; the text names flag and value."""


def make_listener(
    handlers: Sequence[grpc.GenericRpcHandler],
    *,
    max_message_bytes: int,
    keys: KeyRing | None = None,
    on_refusal: OnRefusal = lambda _: None,
    reflected_services: Sequence[str] = (),
) -> grpc.aio.Server:
    """Return a server of these handlers that listens nowhere yet.

    Without `keys` it is open to all; `on_refusal` hears of each caller without one.
    """
    options = [*OPTIONS.items(), ("grpc.max_receive_message_length", max_message_bytes)]
    server = grpc.aio.server(options=options, interceptors=[] if keys is None else [Gate(keys, on_refusal)])
    server.add_generic_rpc_handlers(tuple(handlers))
    if reflected_services:
        reflection.enable_server_reflection((*reflected_services, reflection.SERVICE_NAME), server)
    return server


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
    address = f"[{host}]" if ":" in host else host
    try:
        if credentials is None:
            return server.add_insecure_port(f"{address}:{port}")
        return server.add_secure_port(f"{address}:{port}", credentials)
    except RuntimeError as error:
        raise PortError(
            f"{flag} {port}: cannot listen on {address}:{port}; expected a free port of this machine"
            " (0 takes any)"
        ) from error
