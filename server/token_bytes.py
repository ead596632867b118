"""Which bytes each token stands for, so that text can be made from tokens one at a time."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING

from server.tokenizer_source import TokenizerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import tokenizers

SPACE_MARK = "▁"
CLOSING = (".", "?", "!", ",")
"""Word pieces that follow a word without a space."""
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_of_character() -> dict[str, int]:
    """Byte-level BPE's alphabet: printable Latin-1 stands for itself, the rest is moved past U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(moved)}


BYTE_OF_CHARACTER = _byte_of_character()


class TokenBytes:
    """Maps token ids to bytes. The bytes of a sequence are those of its tokens, joined."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Find out how the tokenizer spells bytes.

        Raises:
            TokenizerError: its decoder does not join tokens byte by byte.
        """
        decoders = _describe(backend.decoder)
        self._backend = backend
        self._added = backend.get_added_tokens_decoder()
        self._spell = _choose_spelling(decoders)
        self._known: dict[int, bytes] = {}
        self.strips_leading_space = any(_strips_leading_space(decoder) for decoder in decoders)

    def __call__(self, token_id: int) -> bytes:
        """Return a token's bytes; none for an id that the tokenizer does not know."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._make(token_id)
        return known

    def _make(self, token_id: int) -> bytes:
        text = self._backend.id_to_token(token_id)
        if text is None:
            return b""
        added = self._added.get(token_id)
        if added is not None and (added.special or self._spell is _spell_byte_level):
            return text.encode()
        return self._spell(text)


def _describe(decoder: tokenizers.decoders.Decoder | None) -> list[dict[str, Any]]:
    """The decoder's steps, as they stand in a tokenizer.json."""
    if decoder is None:
        return []
    description = json.loads(decoder.__getstate__())
    return list(description["decoders"]) if description["type"] == "Sequence" else [description]


def _choose_spelling(decoders: list[dict[str, Any]]) -> Callable[[str], bytes]:
    kinds = {decoder["type"] for decoder in decoders}
    if kinds == {"ByteLevel"}:
        return _spell_byte_level
    if kinds == {"WordPiece"}:
        return partial(_spell_word_piece, decoders[0]["prefix"])
    if decoders and all(_is_sentencepiece(decoder) for decoder in decoders):
        return _spell_byte_fallback if "ByteFallback" in kinds else _spell_space_mark
    raise TokenizerError(
        f"the tokenizer's decoder ({', '.join(sorted(kinds)) or 'none'}) is not supported;"
        " byte-level BPE, sentencepiece and WordPiece are"
    )


def _is_sentencepiece(decoder: dict[str, Any]) -> bool:
    kind = decoder["type"]
    if kind == "Replace":
        return bool(decoder["pattern"] == {"String": SPACE_MARK} and decoder["content"] == " ")
    if kind == "Metaspace":
        return bool(decoder["replacement"] == SPACE_MARK)
    return kind in ("ByteFallback", "Fuse", "Strip")


def _strips_leading_space(decoder: dict[str, Any]) -> bool:
    if decoder["type"] == "WordPiece":
        return True
    if decoder["type"] == "Metaspace":
        return bool(decoder.get("prepend_scheme", "always") != "never")
    return bool(decoder["type"] == "Strip" and decoder["content"] == " " and decoder["start"] > 0)


def _spell_byte_level(text: str) -> bytes:
    try:
        return bytes([BYTE_OF_CHARACTER[character] for character in text])
    except KeyError:  # not in the alphabet, so the entry is meant literally
        return text.encode()


def _spell_byte_fallback(text: str) -> bytes:
    byte = BYTE_TOKEN.fullmatch(text)
    return bytes([int(byte[1], 16)]) if byte else _spell_space_mark(text)


def _spell_word_piece(prefix: str, text: str) -> bytes:
    """Begin a word, or go on with one. The text had its own spaces, which no token tells."""
    if text.startswith(prefix):
        return text.removeprefix(prefix).encode()
    return (text if text in CLOSING else f" {text}").encode()


def _spell_space_mark(text: str) -> bytes:
    return text.replace(SPACE_MARK, " ").encode()
