"""The tool calls of one choice, put together from their fragments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pagewire.v1 import inference_pb2


@dataclass(slots=True)
class Call:
    """One call."""

    id: str
    name: str
    texts: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        """The arguments' JSON text."""
        return "".join(self.texts)


class ToolCalls:
    """The calls, while their fragments come."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}

    def add(self, fragments: Iterable[inference_pb2.ToolCallDelta]) -> None:
        """Take fragments. A call's first one holds its id and name."""
        for fragment in fragments:
            call = self._calls.setdefault(fragment.index, Call(fragment.id, fragment.name))
            call.texts.append(fragment.arguments)

    def whole(self) -> list[Call]:
        """Return the calls in their order."""
        return [self._calls[index] for index in sorted(self._calls)]
