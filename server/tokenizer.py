"""The model's tokenizer: text to token ids and back."""

from __future__ import annotations

import functools
import hashlib
import os
from typing import TYPE_CHECKING, Any

from server.chat.template import ChatTemplate, ChatTemplateError
from server.gguf_tokenizer import read_gguf_tokenizer
from server.token_bytes import TokenBytes
from server.tokenizer_folder import read_tokenizer_folder
from server.tokenizer_source import TokenizerError, TokenizerSource

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tokenizers import Encoding

__all__ = ["InvalidTextError", "Tokenizer", "TokenizerError"]


# A text is encoded by the thread that asks for it: in a common pool it would wait for the texts of others.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class InvalidTextError(ValueError):
    """A text cannot be encoded; the message says why, for the caller to read."""


class Tokenizer:
    """Encodes and decodes. Safe to use from several threads."""

    def __init__(self, source: TokenizerSource) -> None:
        """Take what a model's files say.

        Raises:
            TokenizerError: the tokenizer's decoder or the chat template is not supported.
        """
        self._backend = source.backend
        self._added = source.backend.get_added_tokens_decoder()
        self._token_bytes = TokenBytes(source.backend)
        self.eos_token_ids = source.eos_token_ids
        self.special_tokens = source.special_tokens
        """Their texts, by template variable."""
        bos_token = source.special_tokens.get("bos_token")
        self.bos_token_id = None if bos_token is None else source.backend.token_to_id(bos_token)
        self.chat_template = _make_template(source)

    @classmethod
    def load(cls, path: Path, chat_template: Path | str | None = None) -> Tokenizer:
        """Read the tokenizer of a model folder or a .gguf file.

        Args:
            path: the folder or file.
            chat_template: a Jinja file, or a template's text, that replaces the model's chat template.

        Raises:
            TokenizerError: a file is missing, malformed or not supported.
        """
        source = read_tokenizer_folder(path) if path.is_dir() else read_gguf_tokenizer(path)
        if chat_template is not None:
            text = chat_template if isinstance(chat_template, str) else _read_template(chat_template)
            source = source.with_chat_template(text)
        return cls(source)

    @functools.cached_property
    def vocab_size(self) -> int:
        """One more than the highest token id."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over tokenizer and chat template, in hexadecimal: equal prints mean equal token ids."""
        digest = hashlib.sha256(self._backend.to_str().encode())
        template = self.chat_template
        for text in (template.source, template.tool_use_source) if template else ():
            digest.update(b"\0" + (text or "").encode())
        return digest.hexdigest()

    def settings(self) -> dict[str, Any]:
        """What transformers' tokenizer_config.json says: special tokens, added tokens and chat template."""
        settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", **self.special_tokens}
        settings["added_tokens_decoder"] = {
            str(token_id): {
                "content": token.content,
                "lstrip": token.lstrip,
                "normalized": token.normalized,
                "rstrip": token.rstrip,
                "single_word": token.single_word,
                "special": token.special,
            }
            for token_id, token in sorted(self._added.items())
        }
        if self.chat_template is not None:
            settings["chat_template"] = self.chat_template.source
        return settings

    @property
    def strips_leading_space(self) -> bool:
        """Whether decoding drops a space that stands at the very beginning."""
        return self._token_bytes.strips_leading_space

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Return a text's token ids.

        Args:
            text: any text. The texts of special tokens in it become those tokens.
            add_special_tokens: whether to add what the model expects around a text, such as BOS.

        Raises:
            InvalidTextError: the text holds a lone surrogate.
        """
        _check_text(text)
        return self._encoding(text, add_special_tokens).ids

    def encode_within(
        self, text: str, add_special_tokens: bool, max_tokens: int, *, keeps_end: bool
    ) -> list[int]:
        """Return at most `max_tokens` token ids of a text: special tokens stay, as far as all of them fit.

        Raises:
            InvalidTextError: the text holds a lone surrogate.
        """
        _check_text(text)
        num_special = self._backend.num_special_tokens_to_add(is_pair=False) if add_special_tokens else 0
        direction = "left" if keeps_end else "right"
        encoding = self._encoding(text, add_special_tokens=False)
        encoding.truncate(max(max_tokens - num_special, 0), direction=direction)
        token_ids = self._backend.post_process(encoding, add_special_tokens=add_special_tokens).ids
        return token_ids[-max_tokens:] if keeps_end else token_ids[:max_tokens]

    def _encoding(self, text: str, add_special_tokens: bool) -> Encoding:
        # `encode` would hold the interpreter's lock, and with it the event loop, for a second per MB.
        return self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0]

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool) -> str:
        """Return the text of a whole sequence. Ids that the tokenizer does not know have no text."""
        kept = (i for i in token_ids if not (skip_special_tokens and self.is_special(i)))
        text = b"".join(map(self.token_bytes, kept)).decode(errors="replace")
        return text.removeprefix(" ") if self.strips_leading_space else text

    def token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token adds to the text, which may be a part of a character."""
        return self._token_bytes(token_id)

    def token_text(self, token_id: int) -> str:
        """Return a token's entry in the vocabulary, as the tokenizer spells it."""
        return self._backend.id_to_token(token_id) or ""

    def token_id(self, text: str) -> int | None:
        """Return the id of the token with this entry in the vocabulary, if there is one."""
        return self._backend.token_to_id(text)

    def is_special(self, token_id: int) -> bool:
        """Whether a token is a mark for the model rather than text."""
        added = self._added.get(token_id)
        return added is not None and added.special


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidTextError(f"a lone surrogate at character {error.start} is not valid text") from error


def _make_template(source: TokenizerSource) -> ChatTemplate | None:
    if "default" not in source.chat_templates:
        return None
    try:
        return ChatTemplate(
            source.chat_templates["default"],
            source.special_tokens,
            tool_use_source=source.chat_templates.get("tool_use"),
        )
    except ChatTemplateError as error:
        raise TokenizerError(str(error)) from error


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(f"chat template {path}: {error}") from error
