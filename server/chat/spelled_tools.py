"""Tools for templates that do not know them, spelled out in messages in Hermes' notation.

Such a template would drop them without a word, and the model would answer as if there were none. So the
tools become a part of the system message, the assistant's calls a part of its text, and what tools answered
a message of the user.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from server.chat.hermes import CLOSE, OPEN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Message = Mapping[str, Any]

_INTRODUCTION = """\
You can call functions. These are available, each described by a line of JSON:
<tools>
{tools}
</tools>
To call one, write a JSON object with its name and its arguments between these tags:
<tool_call>
{{"name": "function name", "arguments": {{"argument": "value"}}}}
</tool_call>"""


def spell_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages that say what tools, calls and their answers would have said."""
    spelled: list[dict[str, Any]] = []
    answers: list[str] = []
    for message in messages:
        if message.get("role") == "tool":
            answers.append(f"<tool_response>\n{_text(message.get('content'))}\n</tool_response>")
            continue
        _add_answers(spelled, answers)
        spelled.append(_with_calls(message))
    _add_answers(spelled, answers)
    if tools:
        _introduce(spelled, tools)
    return spelled


def _add_answers(messages: list[dict[str, Any]], answers: list[str]) -> None:
    """Answers in a row share one message of the user, as turns alternate."""
    if answers:
        messages.append({"role": "user", "content": "\n".join(answers)})
        answers.clear()


def _introduce(messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]]) -> None:
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    introduction = _INTRODUCTION.format(tools=lines)
    if messages and messages[0].get("role") in ("system", "developer"):
        own = _text(messages[0].get("content"))
        messages[0] = {**messages[0], "content": f"{own}\n\n{introduction}" if own else introduction}
    else:
        messages.insert(0, {"role": "system", "content": introduction})


def _with_calls(message: Message) -> dict[str, Any]:
    result = dict(message)
    calls = result.pop("tool_calls", None)
    if calls:
        parts = [_text(message.get("content")), *(_call(call["function"]) for call in calls)]
        result["content"] = "\n".join(part for part in parts if part)
    return result


def _call(function: Mapping[str, Any]) -> str:
    """A call in Hermes' notation. Its arguments are JSON text or an object."""
    arguments = function.get("arguments") or "{}"
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return f'{OPEN}\n{{"name": {json.dumps(function.get("name"))}, "arguments": {arguments}}}\n{CLOSE}'


def _text(content: object) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content)
    return str(content or "")
