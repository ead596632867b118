"""Python's literals as JSON: numbers, strings, True, False, None, lists, tuples and dictionaries."""

from __future__ import annotations

import json
import re

MAX_DEPTH = 64
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<string>'[^'\\]*(?:\\.[^'\\]*)*' | "[^"\\]*(?:\\.[^"\\]*)*")
    | (?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![\w.]))
    | (?P<word>[A-Za-z]+)
    | (?P<mark>[\[\](){}:,])
    )""",
    re.VERBOSE | re.DOTALL,
)
_WORDS = {"True": "true", "False": "false", "None": "null", "true": "true", "false": "false", "null": "null"}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0", "\n": ""}
_ESCAPES |= {character: character for character in "\\'\""}
_MAX_CODE_POINT = 0x10FFFF


class _NotALiteralError(ValueError):
    """The text is no literal."""


def literal_to_json(text: str) -> str | None:
    """Return a literal as JSON text; None where it is not one, or is nested too deep."""
    tokens = _Tokens(text)
    try:
        value = _value(tokens, 0)
        tokens.expect_end()
    except _NotALiteralError:
        return None
    return value


class _Tokens:
    """The tokens of a text, one after the other."""

    def __init__(self, text: str) -> None:
        self._text = text.rstrip()
        self._at = 0

    def next(self) -> tuple[str, str]:
        """Read the next token: its kind and its text."""
        match = _TOKEN.match(self._text, self._at)
        if match is None or match.lastgroup is None:
            raise _NotALiteralError
        self._at = match.end()
        return match.lastgroup, match[match.lastgroup]

    def take(self, mark: str) -> bool:
        """Read a mark, if it comes next."""
        at = self._at
        if at < len(self._text) and self.next() == ("mark", mark):
            return True
        self._at = at
        return False

    def expect_end(self) -> None:
        """Refuse anything more."""
        if self._at != len(self._text):
            raise _NotALiteralError


def _value(tokens: _Tokens, depth: int) -> str:
    kind, text = tokens.next()
    if kind == "number":
        return text
    if kind == "word" and text in _WORDS:
        return _WORDS[text]
    if kind == "string":
        return _string(text)
    if kind != "mark" or depth == MAX_DEPTH:
        raise _NotALiteralError
    if text == "{":
        return "{" + ", ".join(_items(tokens, "}", depth, is_dictionary=True)) + "}"
    if text in ("[", "("):
        return "[" + ", ".join(_items(tokens, "]" if text == "[" else ")", depth)) + "]"
    raise _NotALiteralError


def _items(tokens: _Tokens, closer: str, depth: int, is_dictionary: bool = False) -> list[str]:
    items: list[str] = []
    while not tokens.take(closer):
        if items and not tokens.take(","):
            raise _NotALiteralError
        if items and tokens.take(closer):
            break
        item = _value(tokens, depth + 1)
        if is_dictionary:
            if not item.startswith('"') or not tokens.take(":"):
                raise _NotALiteralError
            item = f"{item}: {_value(tokens, depth + 1)}"
        items.append(item)
    return items


def _string(literal: str) -> str:
    text = _ESCAPE.sub(_unescape, literal[1:-1])
    is_whole = not any("\ud800" <= character <= "\udfff" for character in text)
    return json.dumps(text, ensure_ascii=not is_whole)


def _unescape(match: re.Match[str]) -> str:
    escape: str = match[1]
    if len(escape) > 1:
        code_point = int(escape[1:], 16)
        return chr(code_point) if code_point <= _MAX_CODE_POINT else f"\\{escape}"
    return _ESCAPES.get(escape, f"\\{escape}")
