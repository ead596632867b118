"""Chunks of a stream, written from ready-made pieces: a chunk costs one encoded text, not a document."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol

from pagewire.v1 import inference_pb2
from translator.sse import encode_json, encode_text
from translator.usage import UsageTally
from translator.version import SYSTEM_FINGERPRINT

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from translator.generation_group import GenerationGroup
    from translator.schema import GenerationOptions

FINISH_REASONS = {
    inference_pb2.FINISH_REASON_STOP: "stop",
    inference_pb2.FINISH_REASON_LENGTH: "length",
    inference_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
}


def stop_reason(end: inference_pb2.ChoiceEnd) -> str | int | None:
    """Return the stop text or stop token that ended a choice, if one did."""
    match end.WhichOneof("matched"):
        case "stop_text":
            return end.stop_text
        case "stop_token_id":
            return end.stop_token_id
        case _:
            return None


def finish_members(end: inference_pb2.ChoiceEnd, calls_as: str = "tool_calls") -> bytes:
    """Return the last members of a choice that has ended. `calls_as` is its reason where it called tools."""
    is_call = end.finish_reason == inference_pb2.FINISH_REASON_TOOL_CALLS
    reason = (calls_as if is_call else FINISH_REASONS[end.finish_reason]).encode()
    matched = stop_reason(end)
    encoded = encode_text(matched) if isinstance(matched, str) else encode_json(matched)
    return b'"finish_reason":"%b","stop_reason":%b}' % (reason, encoded)


class ChunkRenderer(Protocol):
    """Turns the events of a request into frames."""

    def start(self, prompt: int, started: inference_pb2.Started) -> bytes:
        """Return what comes before all deltas of one prompt's generation; it may be empty."""

    def delta(self, prompt: int, delta: inference_pb2.Delta) -> bytes:
        """Return the frames of a delta of one prompt's generation; they may be empty."""

    def end(self, prompt: int, finished: inference_pb2.Finished) -> bytes:
        """Return the last frames of one prompt's generation."""

    def usage(self) -> bytes:
        """Return what comes after all generations."""


async def render_frames(
    group: GenerationGroup, starts: Mapping[int, inference_pb2.Started], renderer: ChunkRenderer, done: bytes
) -> AsyncGenerator[bytes, None]:
    """Yield the frames of a whole stream; `starts` are those of the group, and `done` is the last frame.

    Raises:
        ApiError: a generation failed.
    """
    first = b"".join([await _start(renderer, prompt, started) for prompt, started in starts.items()])
    if first:
        yield first
    async with aclosing(group.events()) as events:
        async for prompt, event in events:
            match event:
                case inference_pb2.Delta():
                    frame = renderer.delta(prompt, event)
                case inference_pb2.Finished():
                    frame = renderer.end(prompt, event)
                case _:
                    frame = await _start(renderer, prompt, event)
            if frame:
                yield frame
    yield renderer.usage() + done


async def _start(renderer: ChunkRenderer, prompt: int, started: inference_pb2.Started) -> bytes:
    """Render a start. With log probabilities of a long prompt it takes so long that others would wait."""
    if started.prompt_logprobs:
        return await asyncio.to_thread(renderer.start, prompt, started)
    return renderer.start(prompt, started)


class ChunkWriter:
    """Puts choices into the chunks of one stream, and counts its tokens."""

    def __init__(
        self,
        object_name: str,
        response_id: str,
        created: int,
        model: str,
        options: GenerationOptions,
    ) -> None:
        head = {
            "id": response_id,
            "object": object_name,
            "created": created,
            "model": model,
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }
        self._head = b"data: " + encode_json(head)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if options.include_usage else b"]}\n\n"
        self._options = options
        self.tally = UsageTally()

    def chunk(self, choice: bytes, extra: bytes = b"") -> bytes:
        """Return a chunk with one choice. `extra` holds more members of the chunk, from a comma on."""
        if not extra and not self._options.continuous_usage:
            return self._head + choice + self._tail
        usage = b""
        if self._options.continuous_usage:
            usage = b',"usage":' + self.tally.encode()
        elif self._options.include_usage:
            usage = b',"usage":null'
        return self._head + choice + b"]" + extra + usage + b"}\n\n"

    def usage_chunk(self) -> bytes:
        """Return the chunk that holds the usage and no choice, if it was asked for."""
        if not self._options.include_usage:
            return b""
        return self._head + b'],"usage":' + self.tally.encode() + b"}\n\n"
