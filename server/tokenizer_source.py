"""What a model's files say about its tokenizer, whichever kind of file they are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers


class TokenizerError(Exception):
    """The model's tokenizer or chat template is missing, malformed or not supported; the text says which."""


@dataclass(frozen=True, slots=True)
class TokenizerSource:
    """A tokenizer and what belongs to it, as read from a folder or a GGUF file."""

    backend: tokenizers.Tokenizer
    """Its post-processor adds the special tokens (such as BOS) that the model expects."""
    special_tokens: dict[str, str] = field(default_factory=dict)
    """Texts by the names that chat templates use, such as "bos_token"."""
    eos_token_ids: tuple[int, ...] = ()
    """Tokens that end an output, the tokenizer's own first."""
    chat_templates: dict[str, str] = field(default_factory=dict)
    """Jinja sources by name: "default" and, for some models, "tool_use"."""

    def with_chat_template(self, template: str) -> TokenizerSource:
        """The same with another template for every conversation."""
        return replace(self, chat_templates={"default": template})
