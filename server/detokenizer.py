"""Text from tokens as they come: whole characters only, and nothing of a stop string.

Tokens stand for bytes, so the text of a sequence is the UTF-8 decoding of its tokens' bytes, joined. That
is decoded incrementally: a token costs time in proportion to its own bytes, and at most three bytes wait for
the rest of their character. Bytes that are not UTF-8 become U+FFFD, as they do when all is decoded at once.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, NamedTuple

from server.stop_strings import StopStrings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from server.tokenizer import Tokenizer

MAX_CHARACTER_BYTES = 4


class Piece(NamedTuple):
    """What some tokens brought."""

    text: str
    num_tokens: int
    """How many of the pushed tokens count: all of them, or those up to the end of the stop string."""
    stop_text: str | None = None
    """The stop string that ended the text, if one did. Nothing may be pushed after it."""


class Detokenizer:
    """The text of one choice."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: Sequence[int],
        stop: Sequence[str] = (),
        include_stop_text: bool = False,
        skip_special_tokens: bool = True,
        kept_marks: Iterable[str] = (),
        min_tokens: int = 0,
    ) -> None:
        """Start after a prompt.

        Args:
            tokenizer: knows the tokens' bytes.
            prompt_token_ids: what stands before the text. A character that the prompt began belongs to
                the text.
            stop: strings that end the text, none empty.
            include_stop_text: whether the text keeps the stop string that ended it.
            skip_special_tokens: whether special tokens are left out of the text.
            kept_marks: the special tokens that are not.
            min_tokens: a stop string that is complete within so many tokens is text and ends nothing.
        """
        self._tokenizer = tokenizer
        self._skips_special = skip_special_tokens
        self._kept = {tokenizer.token_id(mark) for mark in kept_marks}
        self._includes_stop = include_stop_text
        self._stops = StopStrings(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder.decode(self._last_bytes(prompt_token_ids))
        # Sentencepiece's first word carries a space that is not part of the text.
        self._strips_space = tokenizer.strips_leading_space and not any(map(self._bytes_of, prompt_token_ids))
        self._min_tokens = min_tokens
        self._num_tokens = 0
        self._stopped = False
        self._num_characters = 0
        self.token_starts: list[int] | None = None
        """Where set: gets the place of each token's first character in the text, stop strings included."""

    def push(self, token_ids: Sequence[int]) -> Piece:
        """Take the next tokens and return the text that is certain."""
        assert not self._stopped, "the text has ended"
        if self._stops.are_none and self.token_starts is None:
            return Piece(self._decode(b"".join(map(self._bytes_of, token_ids))), len(token_ids))
        texts = []
        for index, token_id in enumerate(token_ids):
            if self.token_starts is not None:
                self.token_starts.append(self._num_characters)
            self._num_tokens += 1
            may_stop = self._num_tokens > self._min_tokens
            released = self._stops.push(self._decode(self._bytes_of(token_id)), may_stop)
            texts.append(released.text)
            if released.stop is not None:
                self._stopped = True
                if self._includes_stop:
                    texts.append(released.stop)
                return Piece("".join(texts), index + 1, released.stop)
        return Piece("".join(texts), len(token_ids))

    def flush(self) -> str:
        """Return what was held back, where the sequence ended without a stop string."""
        if self._stopped:
            return ""
        released = self._stops.push(self._decoder.decode(b"", final=True))
        return released.text + self._stops.flush()

    def _bytes_of(self, token_id: int) -> bytes:
        if self._skips_special and self._tokenizer.is_special(token_id) and token_id not in self._kept:
            return b""
        return self._tokenizer.token_bytes(token_id)

    def _last_bytes(self, token_ids: Sequence[int]) -> bytes:
        """Bytes at the end of the prompt, enough to hold the beginning of a character."""
        tail = b""
        for token_id in reversed(token_ids):
            tail = self._bytes_of(token_id) + tail
            if len(tail) >= MAX_CHARACTER_BYTES:
                break
        return tail

    def _decode(self, data: bytes) -> str:
        text = self._decoder.decode(data)
        if self._strips_space and text:
            self._strips_space = False
            text = text.removeprefix(" ")
        self._num_characters += len(text)
        return text
