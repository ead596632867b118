"""Llama 3: {"name": "f", "parameters": {…}}, perhaps after <|python_tag|>, several separated by semicolons.

Without the tag it is a call only at the beginning, and only with the name of a tool: other JSON is an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.chat.call_object import Outcome, is_name, read_call
from server.chat.call_syntax import CallSyntax

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from server.chat.pieces import Answer
    from server.chat.reader import Reader, Steps

TAG = "<|python_tag|>"
SYNTAX = CallSyntax(prefix='{"name": "', middle='", "parameters": ', suffix="}", separator="; ")


def parse(reader: Reader, answer: Answer, tools: Collection[str]) -> Steps[None]:
    """Read a whole answer."""
    reader.note()
    yield from reader.skip_space()
    if (yield from reader.peek()) == "{":
        yield from _calls(reader, answer, tools.__contains__)
    else:
        answer.text(reader.noted())
    while (yield from reader.until([TAG], answer.text)):
        reader.note()
        yield from _calls(reader, answer, is_name, TAG)


def _calls(reader: Reader, answer: Answer, is_known: Callable[[str], bool], before: str = "") -> Steps[None]:
    """Read calls for as long as one follows another. What is none is text, with what stood before it."""
    while True:
        yield from reader.skip_space()
        outcome = yield from read_call(reader, answer, is_known)
        if outcome is Outcome.NOT_A_CALL:
            answer.text(before + reader.noted())
        if outcome is not Outcome.COMPLETE:
            return
        yield from reader.skip_space()
        before = ""
        reader.note()
        if not (yield from reader.take(";")):
            reader.forget()
            return
