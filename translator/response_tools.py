"""The tools of a Responses request: which can be called here, and under which name the model knows each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from translator.errors import ApiError
from translator.tools import FunctionTool, NamedTool, add_tools

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pagewire.v1 import chat_pb2
    from translator.tools import ToolMode

_HOSTED = "this server runs no tools itself; only functions can be chosen"


class Tool(msgspec.Struct, kw_only=True):
    """One tool. Only functions, alone or in a namespace, can be called here."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    tools: list[Tool] | None = None


class ToolChoice(msgspec.Struct, kw_only=True):
    """Which tools are called, where it is not a mode."""

    type: str
    name: str | None = None
    mode: str | None = None
    tools: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The functions of a request.

    Tools that run on OpenAI's side, such as web search, are left out: the response's list shows what
    remains.
    """

    functions: dict[str, FunctionTool] = field(default_factory=dict)
    """By the name that the model calls: of a namespace's function, both names joined."""
    origins: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Namespace and name of a namespace's function, by the name that the model calls."""
    listed: list[dict[str, Any]] = field(default_factory=list)
    """As the response lists them."""

    def called_name(self, name: str, namespace: str | None) -> str:
        """Return the name under which the model knows a function."""
        return f"{namespace}__{name}" if namespace else name

    def origin(self, called_name: str) -> tuple[str | None, str]:
        """Return namespace and name of a function that the model called."""
        return self.origins.get(called_name, (None, called_name))

    def write(self, chat: chat_pb2.Chat, choice: ToolMode | ToolChoice | None, parallel: bool | None) -> None:
        """Write the functions and the choice into a chat.

        Raises:
            ApiError: 400; the choice cannot be made.
        """
        functions = list(self.functions.values())
        chosen: ToolMode | NamedTool | None
        if isinstance(choice, ToolChoice):
            functions, chosen = self._choose(choice)
        else:
            chosen = choice
        if not functions and chosen == "auto":
            chosen = None
        add_tools(chat, functions, chosen, parallel)

    def _choose(self, choice: ToolChoice) -> tuple[list[FunctionTool], ToolMode | NamedTool]:
        if choice.type == "function":
            return list(self.functions.values()), NamedTool(self._known(choice.name, "tool_choice.name"))
        if choice.type != "allowed_tools":
            raise ApiError(400, f"tool_choice: {_HOSTED}.", param="tool_choice", code="unsupported_parameter")
        if choice.mode not in ("auto", "required"):
            raise ApiError(400, "tool_choice.mode: expected auto or required.", param="tool_choice.mode")
        names = [
            self._known(tool.get("name"), f"tool_choice.tools[{index}].name")
            for index, tool in enumerate(choice.tools or ())
            if tool.get("type") == "function"
        ]
        allowed = [tool for name, tool in self.functions.items() if name in names]
        return allowed, "auto" if choice.mode == "auto" else "required"

    def _known(self, name: object, where: str) -> str:
        if not isinstance(name, str) or name not in self.functions:
            raise ApiError(400, f"{where}: not found in tools.", param=where)
        return name


def parse_tools(tools: Sequence[Tool]) -> Toolbox:
    """Gather the functions of a request.

    Raises:
        ApiError: 400; a function has no name, or two have the same.
    """
    box = Toolbox()
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if tool.type == "function":
            box.listed.append(_add_function(box, tool, where, None))
        elif tool.type == "namespace":
            _add_namespace(box, tool, where)
    return box


def _add_namespace(box: Toolbox, namespace: Tool, where: str) -> None:
    if not namespace.name:
        raise ApiError(400, f"{where}.name: required.", param=f"{where}.name")
    listed = [
        _add_function(box, tool, f"{where}.tools[{index}]", namespace.name)
        for index, tool in enumerate(namespace.tools or ())
        if tool.type == "function"
    ]
    if listed:
        box.listed.append(
            {
                "type": "namespace",
                "name": namespace.name,
                "description": namespace.description or "",
                "tools": listed,
            }
        )


def _add_function(box: Toolbox, tool: Tool, where: str, namespace: str | None) -> dict[str, Any]:
    if not tool.name:
        raise ApiError(400, f"{where}.name: required.", param=f"{where}.name")
    name = box.called_name(tool.name, namespace)
    if name in box.functions:
        raise ApiError(400, f"{where}.name: another function has the same name.", param=f"{where}.name")
    box.functions[name] = FunctionTool(name, tool.description or "", tool.parameters, bool(tool.strict))
    if namespace is not None:
        box.origins[name] = (namespace, tool.name)
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": bool(tool.strict),
    }
