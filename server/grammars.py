"""Grammars: what an output must look like, in llguidance's notation.

A grammar is a Lark grammar over named parts, each a grammar of its own: a JSON Schema, a regular expression.
So a constraint of the caller's, named @answer, can be put between a prefix and a suffix by another `lark`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import llguidance

if TYPE_CHECKING:
    from collections.abc import Mapping

    Part = Mapping[str, Any]

# Tokens that the grammar forces are still chosen by the model, of those that spell the same text.
_HEADER = '%llguidance {"no_forcing": true}\n'

WHITESPACE = r"(?: |\n[ \t]{0,32})?"
"""Between the tokens of JSON: bounded, lest a model writes nothing else for ever."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """A grammar that may not compile yet; see `grammar_checker.py`."""

    path: str
    """The request's field that it comes from, for errors, such as "spec.constraint.regex"."""
    lark: str
    """Rules in Lark's notation, from `start` on. They may refer to a part as @name."""
    parts: tuple[tuple[str, Part], ...] = ()
    """By name. The caller's constraint, where there is one, is "answer"."""

    @property
    def text(self) -> str:
        """What llguidance takes."""
        main = {"lark_grammar": _HEADER + self.lark}
        return json.dumps({"grammars": [main, *({"name": name, **part} for name, part in self.parts)]})

    def wrapped(self, lark: str, **parts: Part) -> Grammar:
        """The same parts, and more, under other rules."""
        return replace(self, lark=lark, parts=(*self.parts, *parts.items()))


def json_part(schema: Any, *, compact: bool = False, whitespace_pattern: str = WHITESPACE) -> Part:
    """JSON that is valid for a JSON Schema.

    Args:
        schema: a parsed schema.
        compact: whether there is no white space between tokens.
        whitespace_pattern: matches the white space there may be otherwise.
    """
    style: dict[str, Any] = {"whitespace_pattern": whitespace_pattern}
    if compact:
        style = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
    if schema is True:
        schema = {}
    return {"json_schema": schema if schema is False else {**schema, "x-guidance": style}}


def regex_part(regex: str) -> Part:
    r"""Text that a regular expression matches as a whole; \d, \w and \s are ASCII."""
    return {"lark_grammar": f"start: /{llguidance.regex_to_lark(regex, 'dws')}/"}


def choice_part(texts: list[str]) -> Part:
    """One of some texts."""
    return {"lark_grammar": "start: " + " | ".join(map(quoted, texts))}


def lark_part(grammar: str) -> Part:
    """Text that derives from a grammar in Lark's notation."""
    return {"lark_grammar": grammar}


def gbnf_part(grammar: str) -> Part:
    """Text that derives from a grammar in llama.cpp's notation, which the checker brings into Lark's."""
    return {"gbnf": grammar}


def quoted(text: str) -> str:
    """A text as it stands in Lark's notation."""
    return json.dumps(text)
