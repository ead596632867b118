"""Compiled grammars are kept within bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from engine.grammar_templates import GrammarTemplates

if TYPE_CHECKING:
    import llguidance


class Compiler:
    def __init__(self) -> None:
        self.compiled: list[str] = []

    def compile(self, text: str) -> tuple[llguidance.LLMatcher, bytes]:
        self.compiled.append(text)
        if text == "bad":
            raise ValueError(text)
        return cast("Any", f"matcher of {text}"), b""


def test_what_was_used_last_is_kept() -> None:
    compiler = Compiler()
    templates = GrammarTemplates(compiler.compile, max_templates=2)
    for text in ("a", "b", "a", "c", "a", "b"):
        matcher: Any = templates.get(text)[0]
        assert matcher == f"matcher of {text}"
    assert compiler.compiled == ["a", "b", "c", "b"]


def test_long_texts_leave_less_room() -> None:
    compiler = Compiler()
    templates = GrammarTemplates(compiler.compile, max_characters=10)
    for text in ("a" * 6, "b" * 4, "a" * 6, "c" * 9, "a" * 6, "d" * 11, "d" * 11, "a" * 6):
        templates.get(text)
    lengths = [len(text) for text in compiler.compiled]
    assert lengths == [6, 4, 9, 6, 11, 11, 6]


def test_what_cannot_be_compiled_is_not_kept() -> None:
    compiler = Compiler()
    templates = GrammarTemplates(compiler.compile)
    for _ in range(2):
        with pytest.raises(ValueError, match="bad"):
            templates.get("bad")
    assert compiler.compiled == ["bad", "bad"]
