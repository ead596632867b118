"""Chats given as dictionaries, in the form that OpenAI's API made common."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pagewire.errors import ErrorDetails, FieldViolation, InvalidRequestError
from pagewire.v1 import chat_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_MODES = {
    "none": chat_pb2.TOOL_CHOICE_MODE_NONE,
    "auto": chat_pb2.TOOL_CHOICE_MODE_AUTO,
    "required": chat_pb2.TOOL_CHOICE_MODE_REQUIRED,
}


def refuse(field: str, description: str) -> InvalidRequestError:
    """Return the error for a field that cannot be sent."""
    details = ErrorDetails(
        reason="INVALID_FIELD", violations=(FieldViolation(field=field, description=description),)
    )
    return InvalidRequestError(f"{field}: {description}", details=details)


def to_message(value: Mapping[str, object] | chat_pb2.Message, field: str) -> chat_pb2.Message:
    """Convert one message: `role` and `content`, and as needed `name`, `tool_calls`, `tool_call_id`.

    `content` is text or a list of parts, such as {"type": "text", "text": "…"}.

    Raises:
        InvalidRequestError: a value has the wrong type.
    """
    if isinstance(value, chat_pb2.Message):
        return value
    message = chat_pb2.Message(role=_text(value, "role", field))
    match value.get("content"):
        case None:
            pass
        case str(text):
            message.text = text
        case list() | tuple() as parts:
            message.parts.parts.extend(
                _to_part(part, f"{field}.content[{i}]") for i, part in enumerate(parts)
            )
        case other:
            raise refuse(f"{field}.content", f"expected text or a list of parts, got {_kind(other)}")
    for key in ("name", "tool_call_id", "reasoning_text"):
        if value.get(key) is not None:
            setattr(message, key, _text(value, key, field))
    calls = value.get("tool_calls") or ()
    if not isinstance(calls, list | tuple):
        raise refuse(f"{field}.tool_calls", f"expected a list, got {_kind(calls)}")
    message.tool_calls.extend(_to_call(call, f"{field}.tool_calls[{i}]") for i, call in enumerate(calls))
    return message


def to_tool(value: Mapping[str, object] | chat_pb2.Tool, field: str) -> chat_pb2.Tool:
    """Convert one tool, {"type": "function", "function": {"name", "description", "parameters"}}.

    Raises:
        InvalidRequestError: a value has the wrong type.
    """
    if isinstance(value, chat_pb2.Tool):
        return value
    function = _mapping(value.get("function"), f"{field}.function")
    tool = chat_pb2.Tool(
        name=_text(function, "name", f"{field}.function"), strict=bool(function.get("strict"))
    )
    if function.get("description") is not None:
        tool.description = _text(function, "description", f"{field}.function")
    if function.get("parameters") is not None:
        tool.parameters_json = json.dumps(function["parameters"])
    return tool


def to_tool_choice(value: str | Mapping[str, object]) -> chat_pb2.ToolChoice:
    """Convert "none", "auto", "required", or {"type": "function", "function": {"name"}}.

    Raises:
        InvalidRequestError: the value is none of these.
    """
    if isinstance(value, str):
        if value not in _MODES:
            raise refuse("tool_choice", f'expected "none", "auto", "required" or a function, got "{value}"')
        return chat_pb2.ToolChoice(mode=_MODES[value])
    function = _mapping(value.get("function"), "tool_choice.function")
    return chat_pb2.ToolChoice(function_name=_text(function, "name", "tool_choice.function"))


def to_chat(
    messages: Sequence[Mapping[str, object] | chat_pb2.Message],
    tools: Sequence[Mapping[str, object] | chat_pb2.Tool] = (),
) -> chat_pb2.Chat:
    """Convert a conversation.

    Raises:
        InvalidRequestError: a value has the wrong type.
    """
    return chat_pb2.Chat(
        messages=[to_message(message, f"messages[{i}]") for i, message in enumerate(messages)],
        tools=[to_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)],
    )


def _to_part(value: object, field: str) -> chat_pb2.ContentPart:
    part = _mapping(value, field)
    match part.get("type"):
        case "text":
            return chat_pb2.ContentPart(text=_text(part, "text", field))
        case "image_url":
            image = _mapping(part.get("image_url"), f"{field}.image_url")
            return chat_pb2.ContentPart(image_url=_text(image, "url", f"{field}.image_url"))
        case other:
            raise refuse(f"{field}.type", f'expected "text" or "image_url", got {other!r}')


def _to_call(value: object, field: str) -> chat_pb2.ToolCall:
    call = _mapping(value, field)
    function = _mapping(call.get("function"), f"{field}.function")
    return chat_pb2.ToolCall(
        id=_text(call, "id", field),
        name=_text(function, "name", f"{field}.function"),
        arguments=_text(function, "arguments", f"{field}.function"),
    )


def _text(values: Mapping[str, object], key: str, field: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise refuse(f"{field}.{key}", f"expected text, got {_kind(value)}")
    return value


def _mapping(value: object, field: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise refuse(field, f"expected an object, got {_kind(value)}")
    return value


def _kind(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
