"""What the server and its fronts tell each other: msgpack, with a four-byte little-endian length before each.

A front asks for nothing and knows nothing: it says what has happened to its calls, and does what the server
says. An empty message says that its sender is alive. Times are those of `time.monotonic`, which processes of
one machine share.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from gate.certificates import CertificateFiles  # noqa: TC001 - msgspec reads it

SILENCE_TIMEOUT_S = 10.0
"""Both ends beat each second; one that is silent for longer is frozen."""
LENGTH = struct.Struct("<I")
Metadata = tuple[tuple[str, Any], ...]
"""Values are text or bytes; msgspec has no union of the two."""


class FrontConfig(msgspec.Struct, frozen=True):
    """How a front listens."""

    host: str
    port: int
    options: dict[str, int]
    """Of gRPC."""
    tls: CertificateFiles | None
    silence_timeout_s: float = SILENCE_TIMEOUT_S
    """Of the server and of the front."""


class _Said(msgspec.Struct, array_like=True, tag=True, gc=False):
    pass


class Listening(_Said):
    """The front takes connections."""


class Failed(_Said):
    """The front cannot listen, and ends."""

    text: str


class Opened(_Said):
    """A call has come. Nothing of its request has been read."""

    call: int
    method: str
    invocation_metadata: Metadata
    peer: str
    deadline_s: float | None


class Received(_Said):
    """A message of the caller's has been read; None: it sends no more."""

    call: int
    message: bytes | None


class Written(_Said):
    """The last message has been taken by the transport: there is room for another one."""

    call: int


class Left(_Said):
    """The caller has gone, or its time is up; nobody hears an answer."""

    call: int


class Read(_Said):
    """Read a message of the caller's."""

    call: int


class Write(_Said):
    """Send a message."""

    call: int
    message: bytes


class End(_Said):
    """Send the last message, if there is one, and the status."""

    call: int
    message: bytes | None
    code: int
    details: str
    trailing_metadata: Metadata


class Stop(_Said):
    """Take no more calls, give the live ones so many seconds, and end."""

    grace_s: float


Report = Listening | Failed | Opened | Received | Written | Left
"""What a front says."""
Order = Read | Write | End | Stop
"""What the server says."""

encode = msgspec.msgpack.Encoder().encode
decode_report = msgspec.msgpack.Decoder(Report).decode
decode_order = msgspec.msgpack.Decoder(Order).decode
encode_config = msgspec.json.Encoder(enc_hook=str).encode  # of paths
decode_config = msgspec.json.Decoder(FrontConfig, dec_hook=lambda kind, text: kind(text)).decode
