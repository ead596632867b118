"""Readers of a stream who do not read it, or a byte a second, by both doors."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING, Any, Protocol

from http2_peer import Peer, call_headers, headers_frame, message_frame
from hyperframe.frame import SettingsFrame, WindowUpdateFrame
from raw_http import JSON_POST

from pagewire.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fake_house import FakeHouse

METHOD = "/pagewire.v1.InferenceService/StreamGenerate"
RECEIVE_BUFFER_BYTES = 4096
"""What the reader's own kernel takes for it is no matter of ours."""


class IdleReader(Protocol):
    """One connection, with one call of its own."""

    def read_a_byte(self) -> None:
        """What this reader does each second, if anything."""

    def close(self) -> None:
        """Leave."""


class FrozenPeer:
    """Calls over gRPC, and reads nothing at all: no ping is answered either."""

    WINDOW_BYTES = 65_535

    def __init__(self, house: FakeHouse, prompt: Sequence[int], max_tokens: int) -> None:
        self._peer = Peer(house.port)
        settings = {SettingsFrame.INITIAL_WINDOW_SIZE: self.WINDOW_BYTES}
        stopping = inference_pb2.Stopping(max_tokens=max_tokens, ignore_eos=True)
        spec = inference_pb2.GenerationSpec(stopping=stopping)
        spec.token_ids.ids.extend(prompt)
        message = inference_pb2.StreamGenerateRequest(spec=spec).SerializeToString()
        self._peer.send(
            SettingsFrame(0, settings),
            headers_frame(1, call_headers(METHOD)),
            message_frame(1, b"\0" + len(message).to_bytes(4, "big") + message),
        )

    def read_a_byte(self) -> None: ...

    def close(self) -> None:
        self._peer.hang_up()
        self._peer.close()


class WindowlessPeer(FrozenPeer):
    """Answers pings, but takes no message."""

    WINDOW_BYTES = 0

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def close(self) -> None:
        self._peer.hang_up()
        self._reading.join()
        self._peer.close()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            for _ in self._peer.frames():
                pass


class DrippingPeer(WindowlessPeer):
    """Takes a byte more each second."""

    def read_a_byte(self) -> None:
        with contextlib.suppress(OSError):
            self._peer.send(*(WindowUpdateFrame(stream, window_increment=1) for stream in (0, 1)))


class StoppedReader:
    """Asks over HTTP, and reads nothing."""

    def __init__(self, house: FakeHouse, prompt: Sequence[int], max_tokens: int) -> None:
        body = {"model": "tiny-model", "prompt": list(prompt), "max_tokens": max_tokens, "stream": True}
        content = json.dumps(body | {"ignore_eos": True}).encode()
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._socket.connect(("127.0.0.1", house.http_port))
        self._socket.sendall(JSON_POST + b"Content-Length: %d\r\n\r\n" % len(content) + content)

    def read_a_byte(self) -> None: ...

    def close(self) -> None:
        self._socket.close()


class DrippingReader(StoppedReader):
    """Reads a byte each second."""

    def read_a_byte(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.recv(1, socket.MSG_DONTWAIT)


READERS: dict[str, Callable[[FakeHouse, Sequence[int], int], IdleReader]] = {
    "gRPC, frozen": FrozenPeer,
    "gRPC, no window": WindowlessPeer,
    "gRPC, a byte a second": DrippingPeer,
    "HTTP, stopped": StoppedReader,
    "HTTP, a byte a second": DrippingReader,
}
