"""Messages as chat templates expect them, made from messages in OpenAI's form."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from server.chat.content_format import ContentFormat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class ChatTemplateError(Exception):
    """A conversation cannot be rendered; the text says why, for the caller to read."""


def prepare_messages(
    messages: Sequence[Mapping[str, Any]],
    content_format: ContentFormat,
    *,
    knows_developer: bool,
    final_suffix: str = "",
) -> list[dict[str, Any]]:
    """Return new messages in the form that a template reads.

    Args:
        messages: in OpenAI's form.
        content_format: what the template takes content for.
        knows_developer: whether the template has a "developer" role; if not, it becomes "system".
        final_suffix: appended to the text of the last message.

    Raises:
        ChatTemplateError: a message cannot be expressed; the text names it by its index.
    """
    if not messages:
        raise ChatTemplateError("messages: at least one is needed")
    prepared = []
    for index, message in enumerate(messages):
        suffix = final_suffix if index == len(messages) - 1 else ""
        prepared.append(_prepare(message, content_format, f"messages[{index}]", knows_developer, suffix))
    return prepared


def _prepare(
    message: Mapping[str, Any], content_format: ContentFormat, where: str, knows_developer: bool, suffix: str
) -> dict[str, Any]:
    result = {name: value for name, value in message.items() if value is not None}
    if result.get("role") == "developer" and not knows_developer:
        result["role"] = "system"
    content = _with_suffix(result.get("content", ""), suffix, where)
    result["content"] = _convert(content, content_format, where)
    if "tool_calls" in result:
        result["tool_calls"] = [
            _with_parsed_arguments(call, f"{where}.tool_calls[{index}]")
            for index, call in enumerate(result["tool_calls"])
        ]
    if "reasoning_content" in result:
        result.setdefault("thinking", result["reasoning_content"])
    return result


def _with_suffix(content: str | list[Any], suffix: str, where: str) -> str | list[Any]:
    if not suffix:
        return content
    if isinstance(content, str):
        return content + suffix
    if not content or content[-1].get("type") != "text":
        raise ChatTemplateError(f"{where}.content: its last part has no text to continue")
    return [*content[:-1], {**content[-1], "text": content[-1]["text"] + suffix}]


def _convert(content: str | list[Any], content_format: ContentFormat, where: str) -> str | list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content_format is ContentFormat.PARTS else content
    if content_format is not ContentFormat.TEXT:
        return content
    for index, part in enumerate(content):
        if part.get("type") != "text":
            kind = part.get("type")
            raise ChatTemplateError(
                f"{where}.content[{index}]: the chat template takes text only, no {kind!r}"
            )
    return "\n".join(part["text"] for part in content)


def _with_parsed_arguments(call: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Templates write arguments with `tojson`, so they get the object and not its text."""
    function = call.get("function")
    if not function or not isinstance(function.get("arguments"), str):
        return dict(call)
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError) as error:
        raise ChatTemplateError(f"{where}.function.arguments: not valid JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise ChatTemplateError(f"{where}.function.arguments: expected a JSON object")
    return {**call, "function": {**function, "arguments": arguments}}
