"""Tools as the chat endpoint spells them, in today's form and in the old one of functions."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from translator.constraints import ConstrainedOptions
from translator.errors import ApiError
from translator.tools import FunctionTool, NamedTool, ToolMode


class FunctionDefinition(msgspec.Struct, kw_only=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    def as_tool(self) -> FunctionTool:
        """The same for the contract."""
        return FunctionTool(self.name, self.description or "", self.parameters, bool(self.strict))


class Tool(msgspec.Struct, kw_only=True):
    """A tool; only functions are possible."""

    type: str = "function"
    function: FunctionDefinition | None = None


class FunctionName(msgspec.Struct, kw_only=True):
    """A function by its name."""

    name: str


class FunctionChoice(msgspec.Struct, kw_only=True, tag_field="type", tag="function"):
    """The choice of one function."""

    function: FunctionName


class AllowedTools(msgspec.Struct, kw_only=True):
    """Some of the tools, and whether one of them must be called."""

    mode: Literal["auto", "required"]
    tools: list[FunctionChoice]


class AllowedChoice(msgspec.Struct, kw_only=True, tag_field="type", tag="allowed_tools"):
    """The choice of some of the tools. The model is not shown the others."""

    allowed_tools: AllowedTools


class ToolOptions(ConstrainedOptions, kw_only=True):
    """Options with the fields that say which tools there are and which are called."""

    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | AllowedChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionDefinition] | None = None
    function_call: Literal["none", "auto"] | FunctionName | None = None

    @property
    def calls_functions(self) -> bool:
        """Whether calls are answered in the old form: one `function_call` and no `tool_calls`."""
        return bool(self.functions)

    @property
    def calls_as(self) -> str:
        """The finish reason where tools were called."""
        return "function_call" if self.calls_functions else "tool_calls"

    @property
    def is_parallel(self) -> bool | None:
        """Whether several tools may be called in one turn; None: the default."""
        return False if self.calls_functions else self.parallel_tool_calls

    def function_tools(self) -> list[FunctionTool]:
        """The tools that the model is shown.

        Raises:
            ApiError: 400; one is no function, or a choice names one that is not there.
        """
        if self.functions:
            if self.tools:
                raise ApiError(400, "functions: excludes tools.", param="functions")
            return [function.as_tool() for function in self.functions]
        tools = [_as_tool(index, tool) for index, tool in enumerate(self.tools or ())]
        return _allowed(tools, self.tool_choice) if isinstance(self.tool_choice, AllowedChoice) else tools

    def choice(self) -> ToolMode | NamedTool | None:
        """The choice among them; None: the default."""
        if self.functions:
            call = self.function_call
            return NamedTool(call.name) if isinstance(call, FunctionName) else call
        if isinstance(self.tool_choice, FunctionChoice):
            return NamedTool(self.tool_choice.function.name)
        if isinstance(self.tool_choice, AllowedChoice):
            return self.tool_choice.allowed_tools.mode
        return self.tool_choice


def _as_tool(index: int, tool: Tool) -> FunctionTool:
    at = f"tools[{index}]"
    if tool.type != "function":
        message = f"{at}.type: only function is supported, got {tool.type[:40]!a}."
        raise ApiError(400, message, param=f"{at}.type", code="unsupported_parameter")
    if tool.function is None:
        raise ApiError(400, f"{at}.function: required.", param=f"{at}.function")
    return tool.function.as_tool()


def _allowed(tools: list[FunctionTool], choice: AllowedChoice) -> list[FunctionTool]:
    names = [one.function.name for one in choice.allowed_tools.tools]
    known = {tool.name for tool in tools}
    for index, name in enumerate(names):
        if name not in known:
            param = f"tool_choice.allowed_tools.tools[{index}].function.name"
            raise ApiError(400, f"{param}: {name[:64]!a} is not one of the tools.", param=param)
    return [tool for tool in tools if tool.name in names]
