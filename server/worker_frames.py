"""What the processes share that do one risky piece of work at a time for the server, and may be killed.

Frames on their standard input and output are four-byte little-endian lengths and as many bytes. The first one
that comes in sets the process up, and is answered when it is ready; then each is answered by one. The process
ends with its input.
"""

from __future__ import annotations

import resource
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO

LENGTH = struct.Struct("<I")


def read_frame(file: BinaryIO) -> bytes | None:
    """Return the next frame; None at the end of the input."""
    head = file.read(LENGTH.size)
    return file.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None


def write_frame(file: BinaryIO, payload: bytes) -> None:
    """Write a frame at once."""
    file.write(LENGTH.pack(len(payload)) + payload)
    file.flush()


def limit_memory(num_bytes: int) -> None:
    """Let this process map at most so much beyond what it has mapped now, and dump no core."""
    with open("/proc/self/statm", encoding="ascii") as file:
        limit = int(file.read().split()[0]) * resource.getpagesize() + num_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
