"""Tools and tool choices, from the forms that HTTP APIs give them to the contract.

The routes differ in how a body spells a tool. Each makes `FunctionTool` values of its own form and hands
them to `add_tools`, so that all of them mean the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from pagewire.v1 import chat_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function that the model may call."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    """JSON Schema of its arguments. None: it takes none."""
    strict: bool = False
    """Whether the arguments must be valid for the schema."""


@dataclass(frozen=True, slots=True)
class NamedTool:
    """The choice of one function."""

    name: str


ToolMode = Literal["none", "auto", "required"]

_MODES: Mapping[str, chat_pb2.ToolChoiceMode.ValueType] = {
    "none": chat_pb2.TOOL_CHOICE_MODE_NONE,
    "auto": chat_pb2.TOOL_CHOICE_MODE_AUTO,
    "required": chat_pb2.TOOL_CHOICE_MODE_REQUIRED,
}


def add_tools(
    chat: chat_pb2.Chat,
    tools: Sequence[FunctionTool],
    choice: ToolMode | NamedTool | None = None,
    parallel: bool | None = None,
) -> None:
    """Write tools into a chat. Names, schemas and combinations are the server's to check.

    Args:
        chat: the chat.
        tools: in the caller's order.
        choice: which of them is called. None: the contract's default, auto where there are tools.
        parallel: whether several may be called in one turn. None: the contract's default.
    """
    for tool in tools:
        parameters = "" if tool.parameters is None else msgspec.json.encode(tool.parameters).decode()
        chat.tools.add(
            name=tool.name, description=tool.description, parameters_json=parameters, strict=tool.strict
        )
    if isinstance(choice, NamedTool):
        chat.tool_choice.function_name = choice.name
    elif choice is not None:
        chat.tool_choice.mode = _MODES[choice]
    if parallel is not None:
        chat.parallel_tool_calls = parallel
