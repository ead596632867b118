"""What an answer of any route says, choice by choice."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)
Event = dict[str, Any]


@dataclass
class Said:
    """One choice."""

    text: str = ""
    reasoning: str = ""
    calls: list[list[str]] = field(default_factory=list)
    """Name and arguments of each."""
    finish: str | None = None


@dataclass
class Told:
    """What came to the client."""

    choices: dict[int, Said] = field(default_factory=lambda: defaultdict(Said))
    error: Event | None = None
    usage: Event | None = None


def told_at_once(route: str, answer: dict[str, Any]) -> Told:
    """Read an answer in one piece."""
    result = Told(usage=answer["usage"])
    if route == RESPONSES:
        read_items(result.choices[0], answer)
    elif route == MESSAGES:
        read_blocks(result.choices[0], answer["content"])
        result.choices[0].finish = answer["stop_reason"]
    else:
        for choice in answer["choices"]:
            read_choice(result.choices[choice["index"]], choice.get("message") or choice)
            result.choices[choice["index"]].finish = choice["finish_reason"]
    return result


def strict(text: str) -> Any:
    """Parse JSON that holds no NaN and no infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def read_choice(said: Said, part: Event) -> None:
    """A message, a delta, or a completion's choice."""
    said.text += part.get("text") or part.get("content") or ""
    said.reasoning += part.get("reasoning_content") or ""
    if part.get("function_call"):
        _add_call(said, 0, part["function_call"])
    for position, call in enumerate(part.get("tool_calls") or ()):
        _add_call(said, call.get("index", position), call["function"])


def _add_call(said: Said, index: int, function: Event) -> None:
    assert index <= len(said.calls)
    if index == len(said.calls):
        said.calls.append(["", ""])
    said.calls[index][0] += function.get("name") or ""
    said.calls[index][1] += function.get("arguments") or ""


def read_items(said: Said, response: Event) -> None:
    """The items of a response."""
    for item in response["output"]:
        match item["type"]:
            case "message":
                said.text += "".join(part["text"] for part in item["content"])
            case "reasoning":
                said.reasoning += "".join(part["text"] for part in item["content"])
            case "function_call":
                said.calls.append([item["name"], item["arguments"]])
    reason = (response["incomplete_details"] or {}).get("reason", "")
    said.finish = f"{response['status']} {reason}".strip()


def read_blocks(said: Said, blocks: list[Event]) -> None:
    """Anthropic's blocks. The arguments of a call are an object, or the text of one that a stream sent."""
    for block in blocks:
        said.text += block.get("text") or "" if block["type"] == "text" else ""
        said.reasoning += block.get("thinking") or "" if block["type"] == "thinking" else ""
        if block["type"] == "tool_use":
            arguments = block["input"]
            said.calls.append(
                [block["name"], arguments if isinstance(arguments, str) else json.dumps(arguments)]
            )
