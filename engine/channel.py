"""Frames over a stream socket: a four-byte little-endian length, then msgpack.

Token ids of a prompt are packed as four bytes each, in the machine's order: one of 65,536 would hold up the
loops at both ends for a millisecond each if it were taken apart.

The engine's end is blocking and used by its loop; the server's end is asyncio's, see
`server/engine_process.py`. A pair of connected sockets joins them: no port, no pickle.
"""

from __future__ import annotations

import struct
import threading
from array import array
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from engine.errors import ChannelClosedError
from engine.messages import Command, Frame

if TYPE_CHECKING:
    import socket

LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 256 * 1024 * 1024

encode_frame = msgspec.msgpack.Encoder().encode
decode_frame = msgspec.msgpack.Decoder(Frame).decode
encode_command = msgspec.msgpack.Encoder(enc_hook=array.tobytes).encode
decode_command = msgspec.msgpack.Decoder(Command, dec_hook=lambda _, packed: array("I", packed)).decode


def pack(payload: bytes) -> bytes:
    """Prefix a payload with its length."""
    assert len(payload) <= MAX_FRAME_BYTES, len(payload)
    return LENGTH.pack(len(payload)) + payload


class EngineChannel:
    """The engine's end: commands come in on a reader thread, frames go out on the caller's, whichever."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._commands: deque[Command] = deque()
        self._arrived = threading.Condition()
        self._is_woken = False
        self._closed = threading.Event()
        self._sending = threading.Lock()
        threading.Thread(target=self._read, name="engine-inbox", daemon=True).start()

    def send(self, frame: Frame) -> None:
        """Send one frame.

        Raises:
            ChannelClosedError: the server is gone.
        """
        try:
            with self._sending:
                self._socket.sendall(pack(encode_frame(frame)))
        except OSError as error:
            raise ChannelClosedError("the server closed the engine's channel") from error

    def receive(self, timeout_s: float) -> list[Command]:
        """Return all commands that have arrived, waiting up to `timeout_s` for the first, or for `wake`.

        Raises:
            ChannelClosedError: the server is gone and every command was returned.
        """
        with self._arrived:
            if not (self._commands or self._closed.is_set() or self._is_woken) and timeout_s > 0:
                self._arrived.wait(timeout_s)
            self._is_woken = False
            commands = list(self._commands)
            self._commands.clear()
            if not commands and self._closed.is_set():
                raise ChannelClosedError("the server closed the engine's channel")
        return commands

    def wake(self) -> None:
        """Let `receive` return now, or the next call of it at once. Any thread may call this."""
        with self._arrived:
            self._is_woken = True
            self._arrived.notify()

    def wait_closed(self) -> None:
        """Block until the server is gone."""
        self._closed.wait()

    def _read(self) -> None:
        try:
            while True:
                (length,) = LENGTH.unpack(self._read_exactly(LENGTH.size))
                command = decode_command(self._read_exactly(length))
                with self._arrived:
                    self._commands.append(command)
                    self._arrived.notify()
        except (ChannelClosedError, OSError, msgspec.DecodeError):
            with self._arrived:
                self._closed.set()
                self._arrived.notify()

    def _read_exactly(self, num_bytes: int) -> bytes:
        received = bytearray()
        while len(received) < num_bytes:
            part = self._socket.recv(min(num_bytes - len(received), 1 << 20))
            if not part:
                raise ChannelClosedError("the server closed the engine's channel")
            received += part
        return bytes(received)
