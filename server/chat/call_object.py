"""A tool call as a JSON object: {"name": "f", "arguments": {…}}.

Most formats have one, with a wrapper of their own. The arguments may be called "parameters", and may come
before the name; other members are skipped.
"""

from __future__ import annotations

import enum
import json
import re
import string
from typing import TYPE_CHECKING

from server.chat.json_scanner import JsonScanner

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from server.chat.pieces import Answer
    from server.chat.reader import Reader, Steps

NAME_CHARACTERS = frozenset(string.ascii_letters + string.digits + "_-.")
"""Of function names."""
_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
ARGUMENT_KEYS = ("arguments", "parameters")
_AFTER_SCALAR = frozenset(',}] \t\n\r"')


class Outcome(enum.Enum):
    """What became of the attempt to read a call."""

    NOT_A_CALL = enum.auto()
    """It is none, and nothing was given to the answer: what was read is text."""
    BROKEN = enum.auto()
    """It began as one, and went wrong or ended within its arguments."""
    COMPLETE = enum.auto()


def is_name(text: str) -> bool:
    """Whether a text can be the name of a function."""
    return _NAME.fullmatch(text) is not None


def read_run(reader: Reader, characters: Collection[str]) -> Steps[str]:
    """Read for as long as characters are among these."""
    run = []
    while (character := (yield from reader.peek())) and character in characters:
        run.append(reader.read(1))
    return "".join(run)


def read_call(reader: Reader, answer: Answer, is_known: Callable[[str], bool]) -> Steps[Outcome]:
    """Read a call object.

    Args:
        reader: notes what it reads, so that the caller can give it back. The notes end where a call begins.
        answer: takes the call.
        is_known: tells whether an object with this name is a call.
    """
    call = _Call(reader, answer, is_known)
    complete = yield from call.read()
    if complete:
        return Outcome.COMPLETE
    return Outcome.BROKEN if call.has_started else Outcome.NOT_A_CALL


def read_arguments(reader: Reader, answer: Answer) -> Steps[bool]:
    """Read a JSON object into the answer as it comes. False where it is not valid or not whole."""
    scanner = JsonScanner()
    if (yield from reader.peek()) != "{":
        return False
    while not scanner.is_complete:
        if scanner.is_broken or (yield from reader.peek()) == "":
            return False
        answer.arguments(reader.read(scanner.push(reader.rest)))
    answer.end_call()
    return True


class _Call:
    """One call object while it is read."""

    def __init__(self, reader: Reader, answer: Answer, is_known: Callable[[str], bool]) -> None:
        self.has_started = False
        self._reader = reader
        self._answer = answer
        self._is_known = is_known
        self._name = ""
        self._early_arguments: str | None = None
        self._has_arguments = False

    def read(self) -> Steps[bool]:
        """Read all of it. False where it is not a valid call."""
        reader = self._reader
        if not (yield from reader.take("{")):
            return False
        while True:
            yield from reader.skip_space()
            if not (yield from self._member()):
                return False
            yield from reader.skip_space()
            if (yield from reader.take("}")):
                return self._finish()
            if not (yield from reader.take(",")):
                return False

    def _member(self) -> Steps[bool]:
        reader = self._reader
        key = yield from _read_string(reader)
        yield from reader.skip_space()
        if key is None or not (yield from reader.take(":")):
            return False
        yield from reader.skip_space()
        if key == "name" and not self._name:
            name = yield from _read_string(reader)
            if not name or not self._is_known(name):
                return False
            self._name = name
            if self._early_arguments is not None:
                self._start()
                self._answer.arguments(self._early_arguments)
                self._answer.end_call()
            return True
        if key in ARGUMENT_KEYS and not self._has_arguments:
            return (yield from self._arguments())
        return (yield from _read_value(reader)) is not None

    def _arguments(self) -> Steps[bool]:
        self._has_arguments = True
        if (yield from self._reader.peek()) != "{":
            return False
        if self._name:
            self._start()
            return (yield from read_arguments(self._reader, self._answer))
        self._early_arguments = yield from _read_value(self._reader)
        return self._early_arguments is not None

    def _start(self) -> None:
        self.has_started = True
        self._reader.forget()
        self._answer.start_call(self._name)

    def _finish(self) -> bool:
        if self._name and not self.has_started:
            self._start()
            self._answer.arguments("{}")
            self._answer.end_call()
        return self.has_started


def _read_string(reader: Reader) -> Steps[str | None]:
    """Read a JSON string and return what it stands for; None where it is none."""
    if not (yield from reader.take('"')):
        return None
    raw = ['"']
    while True:
        character = yield from reader.peek()
        if not character:
            return None
        raw.append(reader.read(1))
        if character == "\\" and (yield from reader.peek()):
            raw.append(reader.read(1))
        elif character == '"':
            break
    try:
        text = json.loads("".join(raw))
    except ValueError:
        return None
    return str(text)


def _read_value(reader: Reader) -> Steps[str | None]:
    """Read any JSON value and return its text; None where it is not valid."""
    character = yield from reader.peek()
    if character == '"':
        text = yield from _read_string(reader)
        return None if text is None else json.dumps(text)
    raw = []
    if character in ("{", "["):
        scanner = JsonScanner()
        while not scanner.is_complete:
            if scanner.is_broken or (yield from reader.peek()) == "":
                return None
            raw.append(reader.read(scanner.push(reader.rest)))
        return "".join(raw)
    while character and character not in _AFTER_SCALAR:
        raw.append(reader.read(1))
        character = yield from reader.peek()
    text = "".join(raw)
    return text if text in ("true", "false", "null") or _is_number(text) else None


def _is_number(text: str) -> bool:
    scanner = JsonScanner()
    scanner.push(f"[{text}]")
    return scanner.is_complete and text[-1:].isdecimal()
