"""The events of a Messages stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from translator.error_bodies import anthropic_error
from translator.message_blocks import Added, BlockOrder, Closed, Opened
from translator.message_usage import MessageUsage, stop_of
from translator.sse import StreamFormat, encode_json, encode_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pagewire.v1 import inference_pb2
    from translator.errors import ApiError
    from translator.message_blocks import BlockEvent
    from translator.message_request import MessageRequest

_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_BLOCKS = {
    "thinking": b'{"type":"thinking","thinking":"","signature":""}',
    "text": b'{"type":"text","text":""}',
}
_DELTAS = {
    "thinking": b'{"type":"thinking_delta","thinking":%b}',
    "text": b'{"type":"text_delta","text":%b}',
    "tool_use": b'{"type":"input_json_delta","partial_json":%b}',
}


def _error_frame(error: ApiError, request_id: str) -> bytes:
    return b"event: error\ndata: " + anthropic_error(error, request_id) + b"\n\n"


MESSAGE_STREAM = StreamFormat(_error_frame, done=b"", keep_alive=_PING)


class MessageEvents:
    """Renders the events of one stream: the message, its blocks in turn, why it stopped, and its end."""

    def __init__(
        self, request: MessageRequest, message: dict[str, Any], started: inference_pb2.Started
    ) -> None:
        self._request = request
        self._message = message
        self._started = started
        self._order = BlockOrder()
        self._usage = MessageUsage(started, request.marks_cache())

    def start(self, prompt: int, started: inference_pb2.Started) -> bytes:
        """Return the message without its content."""
        message = self._message | {"usage": self._usage.as_dict()}
        return b'event: message_start\ndata: {"type":"message_start","message":%b}\n\n' % encode_json(message)

    def delta(self, prompt: int, delta: inference_pb2.Delta) -> bytes:
        """Return what a delta does to the blocks."""
        frames = b""
        for choice in delta.choices:
            self._usage.add(choice.num_tokens)
            frames += _render(self._order.add(choice))
        return frames

    def end(self, prompt: int, finished: inference_pb2.Finished) -> bytes:
        """Return the end of the last block, why the message stopped, and its whole usage."""
        self._usage.finish(finished.usage)
        stop = stop_of(
            finished.choices[0],
            self._started,
            self._request.max_tokens,
            has_calls=self._order.has_calls,
        )
        body = {"type": "message_delta", "delta": stop, "usage": self._usage.as_dict()}
        frames = _render(self._order.end())
        return frames + b"event: message_delta\ndata: %b\n\n" % encode_json(body)

    def usage(self) -> bytes:
        """Return the last event."""
        return _STOP


def _render(events: Iterable[BlockEvent]) -> bytes:
    return b"".join(_frame(event) for event in events)


def _frame(event: BlockEvent) -> bytes:
    match event:
        case Opened():
            return _event(b"content_block_start", event.index, b',"content_block":' + _block(event))
        case Added():
            delta = _DELTAS[event.kind] % encode_text(event.text)
            return _event(b"content_block_delta", event.index, b',"delta":' + delta)
        case Closed():
            return _event(b"content_block_stop", event.index)


def _event(name: bytes, index: int, member: bytes = b"") -> bytes:
    return b'event: %b\ndata: {"type":"%b","index":%d%b}\n\n' % (name, name, index, member)


def _block(event: Opened) -> bytes:
    if event.kind == "tool_use":
        names = (encode_text(event.tool_id), encode_text(event.tool_name))
        return b'{"type":"tool_use","id":%b,"name":%b,"input":{}}' % names
    return _BLOCKS[event.kind]
