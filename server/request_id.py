"""Ids of requests: the caller's where it gives a usable one, else our own."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

METADATA_KEY = "x-request-id"

# Safe in a log line, a header and a file name.
_USABLE = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_id_of(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """Return the caller's request id, or a new one where it gave none that can be used."""
    for key, value in metadata or ():
        if key == METADATA_KEY and isinstance(value, str) and _USABLE.fullmatch(value):
            return value
    return f"req-{secrets.token_hex(12)}"
