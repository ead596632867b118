"""Mistral: [TOOL_CALLS][{"name": "f", "arguments": {…}}, …], or the newer [TOOL_CALLS]f[ARGS]{…}, repeated.

[ARGS] may be missing, and [CALL_ID] with an id may stand before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.chat.call_object import (
    NAME_CHARACTERS,
    Outcome,
    is_name,
    read_arguments,
    read_call,
    read_run,
)
from server.chat.call_syntax import CallSyntax

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from server.chat.pieces import Answer
    from server.chat.reader import Reader, Steps

CALLS, ARGUMENTS, ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
LIST_SYNTAX = CallSyntax(
    prefix='{"name": "',
    middle='", "arguments": ',
    suffix="}",
    separator=", ",
    opening=f"{CALLS}[",
    closing="]",
    mark=CALLS,
)
NAMED_SYNTAX = CallSyntax(prefix=CALLS, middle=ARGUMENTS, suffix="", separator="", mark=CALLS)


def syntax(has_token: Callable[[str], bool]) -> CallSyntax:
    """The newer form is for models whose vocabulary has its mark."""
    return NAMED_SYNTAX if has_token(ARGUMENTS) else LIST_SYNTAX


def parse(reader: Reader, answer: Answer, tools: Collection[str]) -> Steps[None]:
    """Read a whole answer."""
    while (yield from reader.until([CALLS], answer.text)):
        reader.note()
        yield from reader.skip_space()
        if (yield from reader.take("[")):
            yield from _list(reader, answer)
        elif not (yield from _named(reader, answer)):
            answer.text(CALLS + reader.noted())


def _list(reader: Reader, answer: Answer) -> Steps[None]:
    before = CALLS
    while True:
        yield from reader.skip_space()
        outcome = yield from read_call(reader, answer, is_name)
        if outcome is Outcome.NOT_A_CALL:
            answer.text(before + reader.noted())
        if outcome is not Outcome.COMPLETE:
            return
        yield from reader.skip_space()
        before = ""
        reader.note()
        if not (yield from reader.take(",")):
            reader.forget()
            yield from reader.take("]")
            return


def _named(reader: Reader, answer: Answer) -> Steps[bool]:
    """Read a call of the newer form. False where it is none."""
    name = yield from read_run(reader, NAME_CHARACTERS)
    if (yield from reader.take(ID)):
        yield from read_run(reader, NAME_CHARACTERS)
    yield from reader.take(ARGUMENTS)
    yield from reader.skip_space()
    if not is_name(name) or (yield from reader.peek()) != "{":
        return False
    reader.forget()
    answer.start_call(name)
    yield from read_arguments(reader, answer)
    return True
