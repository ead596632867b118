"""Follows JSON text as it comes, and tells where a value ends or goes wrong."""

from __future__ import annotations

import re

_SPACE = " \t\n\r"
_CLOSERS = {"{": "}", "[": "]"}
_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?\Z")
_NUMBER_CHARACTERS = frozenset("0123456789+-.eE")
_WORDS = {"t": "true", "f": "false", "n": "null"}
MAX_NUMBER_CHARACTERS = 256


class JsonScanner:
    """Scans one array or object, from its opening bracket on.

    What has been accepted is always the beginning of valid JSON. The time is linear in the text.
    """

    def __init__(self) -> None:
        self.is_complete = False
        """Whether the value has ended."""
        self.is_broken = False
        """Whether the last character that was pushed cannot stand in JSON here; it was not accepted."""
        self._open: list[str] = []
        self._expected = self._value
        self._word = ""
        self._is_key = False

    def push(self, text: str) -> int:
        """Take the next piece and return how many of its characters belong to the value."""
        at = 0
        while at < len(text) and not self.is_complete:
            accepted = self._expected(text, at)
            if accepted == 0:
                self.is_broken = True
                break
            at += accepted
        return at

    def _value(self, text: str, at: int) -> int:
        character = text[at]
        if character in "{[":
            self._open.append(character)
            self._expected = self._first_key if character == "{" else self._first_item
        elif character in _SPACE and self._open:
            pass
        elif not self._open:
            return 0
        elif character == '"':
            self._is_key = False
            self._expected = self._string
        elif character in _WORDS:
            self._word = _WORDS[character][1:]
            self._expected = self._rest_of_word
        elif character == "-" or character.isdecimal():
            self._word = ""
            return self._number(text, at)
        else:
            return 0
        return 1

    def _first_key(self, text: str, at: int) -> int:
        return self._close(text[at]) or self._key(text, at)

    def _first_item(self, text: str, at: int) -> int:
        return self._close(text[at]) or self._value(text, at)

    def _key(self, text: str, at: int) -> int:
        if text[at] == '"':
            self._is_key = True
            self._expected = self._string
            return 1
        return int(text[at] in _SPACE)

    def _next_key(self, text: str, at: int) -> int:
        return self._key(text, at)

    def _colon(self, text: str, at: int) -> int:
        if text[at] == ":":
            self._expected = self._value
            return 1
        return int(text[at] in _SPACE)

    def _after_value(self, text: str, at: int) -> int:
        if text[at] == ",":
            self._expected = self._next_key if self._open[-1] == "{" else self._value
            return 1
        return self._close(text[at]) or int(text[at] in _SPACE)

    def _close(self, character: str) -> int:
        if character != _CLOSERS[self._open[-1]]:
            return 0
        self._open.pop()
        self.is_complete = not self._open
        self._expected = self._after_value
        return 1

    def _string(self, text: str, at: int) -> int:
        plain = _PLAIN.match(text, at)
        if plain:
            return plain.end() - at
        if text[at] == '"':
            self._expected = self._colon if self._is_key else self._after_value
            return 1
        self._expected = self._escape
        return int(text[at] == "\\")

    def _escape(self, text: str, at: int) -> int:
        self._word = "xxxx"
        self._expected = self._hexadecimal if text[at] == "u" else self._string
        return int(text[at] in '"\\/bfnrtu')

    def _hexadecimal(self, text: str, at: int) -> int:
        self._word = self._word[1:]
        if not self._word:
            self._expected = self._string
        return int(text[at] in "0123456789abcdefABCDEF")

    def _rest_of_word(self, text: str, at: int) -> int:
        expected, self._word = self._word[0], self._word[1:]
        if not self._word:
            self._expected = self._after_value
        return int(text[at] == expected)

    def _number(self, text: str, at: int) -> int:
        self._expected = self._number
        if text[at] in _NUMBER_CHARACTERS:
            self._word += text[at]
            return int(_may_be_number(self._word))
        return self._after_value(text, at) if _NUMBER.match(self._word) else 0


def _may_be_number(text: str) -> bool:
    """Whether a text is a number or becomes one with a digit more."""
    if len(text) > MAX_NUMBER_CHARACTERS:
        return False
    return bool(_NUMBER.match(text) or _NUMBER.match(text + "0"))
