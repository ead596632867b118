"""What a caller shows at the door, and how wide the door is."""

from __future__ import annotations

import ipaddress


def bearer_secret(values: list[bytes]) -> bytes | None:
    """Return the key of an Authorization header, of which there must be one, of the scheme Bearer."""
    if len(values) != 1:
        return None
    scheme, _, secret = values[0].strip().partition(b" ")
    return secret.strip() or None if scheme.lower() == b"bearer" else None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on that address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
