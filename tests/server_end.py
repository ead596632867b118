"""The server's end of an engine's channel, for tests that drive an engine by hand."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Self

from engine.channel import LENGTH, decode_frame, encode_command, pack
from engine.messages import EngineStats, Heartbeat, Ready, StepOutputs

if TYPE_CHECKING:
    from engine.messages import Command, Frame, RequestOutput

TIMEOUT_S = 30.0


class ServerEnd:
    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair()
        self._ours.settimeout(TIMEOUT_S)
        self._buffer = b""
        self.stats = EngineStats()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self.theirs.close()

    def close(self) -> None:
        self._ours.close()

    def send(self, *commands: Command) -> None:
        """All at once, so that the engine may find them together."""
        self._ours.sendall(b"".join(pack(encode_command(command)) for command in commands))

    def send_bytes(self, data: bytes) -> None:
        self._ours.sendall(data)

    def receive(self, timeout_s: float = TIMEOUT_S) -> Frame:
        """Raises EOFError when the engine has gone, and TimeoutError where it is silent."""
        self._ours.settimeout(timeout_s)
        (length,) = LENGTH.unpack(self._read(LENGTH.size))
        frame: Frame = decode_frame(self._read(length))
        if isinstance(frame, StepOutputs | Heartbeat):
            self.stats = frame.stats
        return frame

    def wait_ready(self) -> Ready:
        while not isinstance(frame := self.receive(), Ready):
            pass
        return frame

    def outputs_until_end_of(self, *request_ids: str) -> dict[str, list[RequestOutput]]:
        """All outputs of these sequences, up to the last one's end."""
        outputs: dict[str, list[RequestOutput]] = {request_id: [] for request_id in request_ids}
        while any(not told or told[-1].finish_reason is None for told in outputs.values()):
            frame = self.receive()
            if isinstance(frame, StepOutputs):
                for output in frame.outputs:
                    if output.request_id in outputs:
                        outputs[output.request_id].append(output)
        return outputs

    def _read(self, num_bytes: int) -> bytes:
        while len(self._buffer) < num_bytes:
            part = self._ours.recv(1 << 20)
            if not part:
                raise EOFError
            self._buffer += part
        data, self._buffer = self._buffer[:num_bytes], self._buffer[num_bytes:]
        return data
