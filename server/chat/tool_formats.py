"""The formats in which models call tools, under vLLM's names."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.chat import hermes, llama3_json, mistral, pythonic

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from server.chat.call_syntax import CallSyntax
    from server.chat.pieces import Answer
    from server.chat.reader import Reader, Steps


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a model calls tools."""

    name: str
    parse: Callable[[Reader, Answer, Collection[str]], Steps[None]]
    """Reads a whole answer; it is given the names of the tools."""
    syntax: Callable[[Callable[[str], bool]], CallSyntax]
    """How calls are written; it may ask whether the vocabulary has a token."""
    marks: tuple[str, ...]
    """Texts that it needs, though they may be special tokens."""
    has_short_ids: bool = False
    """Whether the model's template takes ids of nine letters and digits only."""

    def make_id(self) -> str:
        """A new id of a call."""
        if self.has_short_ids:
            return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))
        return f"call_{secrets.token_hex(12)}"


HERMES = ToolFormat("hermes", hermes.parse, lambda _: hermes.SYNTAX, (hermes.OPEN, hermes.CLOSE))
LLAMA3_JSON = ToolFormat("llama3_json", llama3_json.parse, lambda _: llama3_json.SYNTAX, (llama3_json.TAG,))
MISTRAL = ToolFormat(
    "mistral",
    mistral.parse,
    mistral.syntax,
    (mistral.CALLS, mistral.ARGUMENTS, mistral.ID),
    has_short_ids=True,
)
# Its own form is not JSON, so forced calls have that of Hermes.
PYTHONIC = ToolFormat("pythonic", pythonic.parse, lambda _: hermes.SYNTAX, (pythonic.OPEN, pythonic.CLOSE))

TOOL_FORMATS = {one.name: one for one in (HERMES, LLAMA3_JSON, MISTRAL, PYTHONIC)} | {
    "qwen": HERMES,
    "qwen3": HERMES,
    "granite4": HERMES,
    "llama4_json": LLAMA3_JSON,
    "llama4_pythonic": PYTHONIC,
}
"""By the names that an operator may give."""
