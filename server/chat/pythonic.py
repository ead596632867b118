"""Pythonic: [f(a=1), g(b="x")], as Llama 4 and others write it, at the beginning of the answer.

It may stand between <|python_start|> and <|python_end|>. Values are Python's literals; each is sent on when
it is whole.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from server.chat.call_object import NAME_CHARACTERS, read_run
from server.chat.python_literal import literal_to_json

if TYPE_CHECKING:
    from collections.abc import Collection

    from server.chat.pieces import Answer
    from server.chat.reader import Reader, Steps

OPEN, CLOSE = "<|python_start|>", "<|python_end|>"
_OUTSIDE = re.compile(r"[^'\"()\[\]{},]+")
_INSIDE = {quote: re.compile(rf"[^{quote}\\]+") for quote in "'\""}


def parse(reader: Reader, answer: Answer, tools: Collection[str]) -> Steps[None]:
    """Read a whole answer."""
    reader.note()
    yield from reader.skip_space()
    yield from reader.take(OPEN)
    yield from reader.skip_space()
    is_list = yield from reader.take("[")
    while is_list:
        if not (yield from _call(reader, answer, tools)):
            break
        yield from reader.skip_space()
        reader.note()
        is_list = yield from reader.take(",")
        if not is_list:
            reader.forget()
            yield from reader.take("]")
            yield from reader.skip_space()
            yield from reader.take(CLOSE)
    answer.text(reader.noted())
    yield from reader.until([], answer.text)


def _call(reader: Reader, answer: Answer, tools: Collection[str]) -> Steps[bool]:
    """Read one call. False where it is none, or goes wrong; only in the first case there are notes left."""
    yield from reader.skip_space()
    name = yield from read_run(reader, NAME_CHARACTERS)
    if name not in tools or not (yield from reader.take("(")):
        return False
    is_first = True
    while True:
        yield from reader.skip_space()
        if (yield from reader.take(")")):
            _send(reader, answer, name, "{}" if is_first else "}", is_first)
            answer.end_call()
            return True
        member = yield from _member(reader)
        if member is None:
            return False
        _send(reader, answer, name, "{" + member if is_first else ", " + member, is_first)
        is_first = False
        yield from reader.take(",")


def _send(reader: Reader, answer: Answer, name: str, arguments: str, is_first: bool) -> None:
    if is_first:
        reader.forget()
        answer.start_call(name)
    answer.arguments(arguments)


def _member(reader: Reader) -> Steps[str | None]:
    """Read `key=value` up to the comma or bracket after it, as a member of a JSON object."""
    key = yield from read_run(reader, NAME_CHARACTERS)
    yield from reader.skip_space()
    if not key or not (yield from reader.take("=")):
        return None
    literal = yield from _literal(reader)
    value = None if literal is None else literal_to_json(literal)
    return None if value is None else f"{json.dumps(key)}: {value}"


def _literal(reader: Reader) -> Steps[str | None]:
    """Read the text of a value, which ends before a comma or closing bracket that is not its own."""
    raw, depth, quote = [], 0, ""
    while True:
        character = yield from reader.peek()
        if not character:
            return None
        plain = (_INSIDE[quote] if quote else _OUTSIDE).match(reader.rest)
        if plain:
            raw.append(reader.read(plain.end()))
            continue
        if not quote and depth == 0 and character in ",)":
            return "".join(raw)
        raw.append(reader.read(1))
        if quote:
            if character == "\\" and (yield from reader.peek()):
                raw.append(reader.read(1))
            elif character == quote:
                quote = ""
        elif character in "'\"":
            quote = character
        elif character != ",":
            depth += 1 if character in "([{" else -1
