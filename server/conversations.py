"""Chats of the contract: checked, and brought into the form that chat templates read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from server.chat_tools import ToolUse, parse_tools

if TYPE_CHECKING:
    from pagewire.v1 import chat_pb2
    from server.fields import Fields

MAX_MESSAGES = 2048


@dataclass(frozen=True, slots=True)
class Conversation:
    """A checked chat."""

    path: str
    """Of the chat in its request, for errors of the template."""
    messages: list[dict[str, Any]]
    """In OpenAI's form."""
    arguments: dict[str, Any]
    add_generation_prompt: bool
    continue_final_message: bool
    tools: ToolUse
    template: str = ""
    """The chat's own template; empty: the model's."""


def parse_chat(fields: Fields, path: str, chat: chat_pb2.Chat) -> Conversation:
    """Check a chat, refusing what is wrong with it in `fields`."""
    fields.require(len(chat.messages) > 0, f"{path}.messages", "at least one message is needed")
    fields.at_most(f"{path}.messages", chat.messages, MAX_MESSAGES, "messages")
    continues = chat.continue_final_message
    add_generation_prompt = (
        chat.add_generation_prompt if chat.HasField("add_generation_prompt") else not continues
    )
    fields.require(
        not (continues and add_generation_prompt),
        f"{path}.continue_final_message",
        "excludes add_generation_prompt: the prompt ends within the last message or after it",
    )
    return Conversation(
        path=path,
        messages=[
            _message(fields, f"{path}.messages[{index}]", message)
            for index, message in enumerate(chat.messages[:MAX_MESSAGES])
        ],
        arguments=_template_arguments(
            fields, f"{path}.template_arguments_json", chat.template_arguments_json
        ),
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continues,
        tools=parse_tools(fields, path, chat),
        template=chat.template,
    )


def _message(fields: Fields, path: str, message: chat_pb2.Message) -> dict[str, Any]:
    fields.require(bool(message.role), f"{path}.role", "must not be empty")
    result: dict[str, Any] = {"role": message.role}
    match message.WhichOneof("content"):
        case "text":
            result["content"] = message.text
        case "parts":
            result["content"] = _parts(fields, f"{path}.parts", message.parts)
        case _:
            result["content"] = None
            needed = "content is needed: text or parts, or tool_calls"
            fields.require(len(message.tool_calls) > 0, path, needed)
    if message.name:
        result["name"] = message.name
    if message.tool_calls:
        result["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id:
        result["tool_call_id"] = message.tool_call_id
    if message.reasoning_text:
        result["reasoning_content"] = message.reasoning_text
    return result


def _parts(fields: Fields, path: str, content: chat_pb2.ContentParts) -> list[dict[str, Any]]:
    fields.require(len(content.parts) > 0, path, "at least one part is needed")
    for index, part in enumerate(content.parts):
        match part.WhichOneof("kind"):
            case "text":
                pass
            case "image_url":
                fields.refuse(f"{path}[{index}].image_url", "images are not implemented by this server")
            case _:
                fields.refuse(f"{path}[{index}]", "a kind of part is needed")
    return [{"type": "text", "text": part.text} for part in content.parts]


def _template_arguments(fields: Fields, path: str, text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        arguments = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        fields.refuse(path, f"not valid JSON: {error}")
        return {}
    if not isinstance(arguments, dict):
        fields.refuse(path, "expected a JSON object")
        return {}
    return arguments


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")
