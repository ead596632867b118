"""The order of an answer's blocks: thinking, text and tool calls, each opened, filled and closed in turn."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from translator.errors import internal_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pagewire.v1 import inference_pb2

log = logging.getLogger("translator")

BlockKind = Literal["thinking", "text", "tool_use"]


@dataclass(frozen=True, slots=True)
class Opened:
    """A block begins."""

    index: int
    kind: BlockKind
    tool_id: str = ""
    """Id and name of the call, where it is one."""
    tool_name: str = ""


@dataclass(frozen=True, slots=True)
class Added:
    """The open block goes on. The text of a call is a part of its arguments' JSON."""

    index: int
    kind: BlockKind
    text: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The open block ends."""

    index: int


BlockEvent = Opened | Added | Closed


class BlockOrder:
    """Turns the deltas of a choice into events of blocks. At most one block is open."""

    def __init__(self) -> None:
        self._num_opened = 0
        self._open: BlockKind | None = None
        self._call = -1
        """Index of the last call among the choice's calls."""

    @property
    def has_calls(self) -> bool:
        """Whether a tool was called."""
        return self._call >= 0

    def add(self, delta: inference_pb2.ChoiceDelta) -> Iterator[BlockEvent]:
        """Yield what a delta does to the blocks.

        Raises:
            ApiError: the server went back to a call that it had left.
        """
        if delta.reasoning_text:
            yield from self._go_on("thinking", delta.reasoning_text)
        if delta.text:
            yield from self._go_on("text", delta.text)
        for fragment in delta.tool_calls:
            yield from self._add_call(fragment)

    def end(self) -> Iterator[BlockEvent]:
        """Yield what ends the answer."""
        if self._open is not None:
            self._open = None
            yield Closed(self._num_opened - 1)

    def _go_on(self, kind: BlockKind, text: str) -> Iterator[BlockEvent]:
        if self._open != kind:
            yield from self._begin(kind)
        yield Added(self._num_opened - 1, kind, text)

    def _add_call(self, fragment: inference_pb2.ToolCallDelta) -> Iterator[BlockEvent]:
        if fragment.index < self._call or (fragment.index == self._call and self._open != "tool_use"):
            log.error("the model server broke the contract: it went back to a finished tool call")
            raise internal_error()
        if fragment.index > self._call:
            self._call = fragment.index
            yield from self._begin("tool_use", fragment.id, fragment.name)
        if fragment.arguments:
            yield Added(self._num_opened - 1, "tool_use", fragment.arguments)

    def _begin(self, kind: BlockKind, tool_id: str = "", tool_name: str = "") -> Iterator[BlockEvent]:
        yield from self.end()
        self._open = kind
        self._num_opened += 1
        yield Opened(self._num_opened - 1, kind, tool_id, tool_name)
