"""Hermes and Qwen: <tool_call>{"name": "f", "arguments": {…}}</tool_call>, anywhere in the text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.chat.call_object import Outcome, is_name, read_call
from server.chat.call_syntax import CallSyntax

if TYPE_CHECKING:
    from collections.abc import Collection

    from server.chat.pieces import Answer
    from server.chat.reader import Reader, Steps

OPEN, CLOSE = "<tool_call>", "</tool_call>"
SYNTAX = CallSyntax(
    prefix=f'{OPEN}\n{{"name": "',
    middle='", "arguments": ',
    suffix=f"}}\n{CLOSE}",
    separator="\n",
    mark=OPEN,
)


def parse(reader: Reader, answer: Answer, tools: Collection[str]) -> Steps[None]:
    """Read a whole answer."""
    while (yield from reader.until([OPEN], answer.text)):
        reader.note()
        yield from reader.skip_space()
        outcome = yield from read_call(reader, answer, is_name)
        if outcome is Outcome.NOT_A_CALL:
            answer.text(OPEN + reader.noted())
        elif outcome is Outcome.COMPLETE:
            yield from reader.skip_space()
            yield from reader.take(CLOSE)
