"""Who is at the other end of a call, as logs name it."""

from __future__ import annotations

from urllib.parse import unquote


def address_of(peer: str) -> str:
    """Return a caller's address and port, without gRPC's prefix of the family."""
    return unquote(peer.partition(":")[2])
