"""The socket that HTTP comes in by."""

from __future__ import annotations

import socket

BACKLOG = 2048
STALLED_READER_S = 30
MAX_UNSENT_BYTES = 16 * 1024


def open_listener(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address that nobody else listens on.

    Raises:
        OSError: the address is taken or not ours.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Connections inherit it: a client that stops reading is cut by the kernel.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_READER_S * 1000)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # Nor does the kernel keep megabytes for it.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_UNSENT_BYTES)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
