"""Compiled grammars that are kept for later sequences."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import llguidance

    Template = tuple[llguidance.LLMatcher, bytes]

MAX_TEMPLATES = 64
MAX_CHARACTERS = 96 * 1024
"""Of the texts together. Schemas of many ranges take about 560 bytes for each when they are compiled."""


class GrammarTemplates:
    """Keeps those used last, within a number and within a size. Any thread may call it.

    Args:
        compile_text: compiles a grammar, and returns a matcher at its beginning and its first mask.
    """

    def __init__(
        self,
        compile_text: Callable[[str], Template],
        max_templates: int = MAX_TEMPLATES,
        max_characters: int = MAX_CHARACTERS,
    ) -> None:
        self._compile = compile_text
        self._max_templates = max_templates
        self._max_characters = max_characters
        self._lock = threading.Lock()
        self._templates: OrderedDict[str, Template] = OrderedDict()
        self._num_characters = 0

    def get(self, text: str) -> Template:
        """Return a grammar, which is compiled if it is not here. Raises what compiling raises."""
        with self._lock:
            template = self._templates.get(text)
            if template is not None:
                self._templates.move_to_end(text)
                return template
        template = self._compile(text)
        with self._lock:
            self._keep(text, template)
        return template

    def _keep(self, text: str, template: Template) -> None:
        if text not in self._templates:
            self._num_characters += len(text)
        self._templates[text] = template
        while len(self._templates) > self._max_templates or self._num_characters > self._max_characters:
            oldest, _ = self._templates.popitem(last=False)
            self._num_characters -= len(oldest)
