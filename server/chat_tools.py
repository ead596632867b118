"""The tools of a chat and the choice among them, checked."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pagewire.v1 import chat_pb2
from server.chat.call_object import is_name
from server.fields import shown
from server.json_texts import ConstraintError, parse_schema

if TYPE_CHECKING:
    from server.fields import Fields

MAX_TOOLS = 128
NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


class ToolChoice(enum.Enum):
    """Whether the model calls tools."""

    NONE = "none"
    AUTO = "auto"
    REQUIRED = "required"
    NAMED = "named"
    """One certain tool, once."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    description: str
    parameters: dict[str, Any] | None
    """JSON Schema of its arguments; None: it takes none."""
    strict: bool

    def as_openai(self) -> dict[str, Any]:
        """The form that chat templates read."""
        function: dict[str, Any] = {"name": self.name}
        if self.description:
            function["description"] = self.description
        function["parameters"] = NO_PARAMETERS if self.parameters is None else self.parameters
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools of a chat, and how they may be used. With NONE the model is shown no tools."""

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = ToolChoice.NONE
    name: str = ""
    """The chosen function's, where the choice is NAMED."""
    is_parallel: bool = True

    @property
    def callable(self) -> tuple[Tool, ...]:
        """The tools that may be called."""
        if self.choice is ToolChoice.NAMED:
            return tuple(tool for tool in self.tools if tool.name == self.name)
        return () if self.choice is ToolChoice.NONE else self.tools

    @property
    def is_forced(self) -> bool:
        """Whether the output must be a call."""
        return self.choice in (ToolChoice.REQUIRED, ToolChoice.NAMED)

    @property
    def max_calls(self) -> int | None:
        """How many calls count; None: all."""
        return 1 if self.choice is ToolChoice.NAMED or not self.is_parallel else None

    def for_template(self) -> list[dict[str, Any]]:
        """The tools as a chat template reads them."""
        return [] if self.choice is ToolChoice.NONE else [tool.as_openai() for tool in self.tools]


_MODES = {
    chat_pb2.TOOL_CHOICE_MODE_NONE: ToolChoice.NONE,
    chat_pb2.TOOL_CHOICE_MODE_AUTO: ToolChoice.AUTO,
    chat_pb2.TOOL_CHOICE_MODE_REQUIRED: ToolChoice.REQUIRED,
}


def parse_tools(fields: Fields, path: str, chat: chat_pb2.Chat) -> ToolUse:
    """Check a chat's tools, refusing what is wrong with them in `fields`."""
    fields.at_most(f"{path}.tools", chat.tools, MAX_TOOLS, "tools")
    tools = tuple(
        _tool(fields, f"{path}.tools[{index}]", tool) for index, tool in enumerate(chat.tools[:MAX_TOOLS])
    )
    for name, count in Counter(tool.name for tool in tools).items():
        fields.require(count == 1, f"{path}.tools", f"{count} tools have the name {shown(name)}")
    choice = _choice(fields, f"{path}.tool_choice", chat)
    is_parallel = not chat.HasField("parallel_tool_calls") or chat.parallel_tool_calls
    return ToolUse(tools, choice, chat.tool_choice.function_name, is_parallel)


def _tool(fields: Fields, path: str, tool: chat_pb2.Tool) -> Tool:
    expected = "expected 1 to 64 letters, digits, underscores, hyphens or dots"
    fields.require(is_name(tool.name), f"{path}.name", f"{shown(tool.name)} is not a name; {expected}")
    parameters = _parameters(fields, f"{path}.parameters_json", tool.parameters_json)
    return Tool(tool.name, tool.description, parameters, tool.strict)


def _parameters(fields: Fields, path: str, text: str) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        schema = parse_schema(text)
    except ConstraintError as error:
        fields.refuse(path, str(error))
        return None
    if not isinstance(schema, dict):
        fields.refuse(path, "expected a JSON Schema of an object")
        return None
    kind = schema.get("type", "object")
    fields.require(kind == "object", path, f"the type is {shown(str(kind))}; expected 'object'")
    return schema


def _choice(fields: Fields, path: str, chat: chat_pb2.Chat) -> ToolChoice:
    given = chat.tool_choice
    fields.enum(f"{path}.mode", given.mode, chat_pb2.ToolChoiceMode.values())
    kind = given.WhichOneof("kind")
    if chat.HasField("tool_choice"):
        fields.require(kind is not None, path, "a kind of choice is needed")
    choice = ToolChoice.NAMED if kind == "function_name" else _MODES.get(given.mode)
    if not chat.tools:
        is_forced = choice in (ToolChoice.NAMED, ToolChoice.REQUIRED)
        fields.require(not is_forced, path, "needs tools to choose from")
        return ToolChoice.NONE
    if choice is ToolChoice.NAMED:
        known = any(tool.name == given.function_name for tool in chat.tools)
        fields.require(
            known, f"{path}.function_name", f"{shown(given.function_name)} is not one of the tools"
        )
    return choice or ToolChoice.AUTO
