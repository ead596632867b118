"""llguidance over a model's vocabulary: from a grammar's text to the tokens that may come next."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

if TYPE_CHECKING:
    from engine.messages import Vocabulary

# They bound a mask to some tens of milliseconds, and what a grammar holds to some tens of megabytes.
LIMITS = LLParserLimits(
    max_items_in_row=2000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)

MAX_ERROR_CHARACTERS = 400


class GrammarError(Exception):
    """A grammar is wrong, matches nothing, or became too complex; the text says which."""


class GrammarCompiler:
    """Compiles grammars and follows them. Threads may share it."""

    def __init__(self, vocabulary: Vocabulary, vocab_size: int) -> None:
        """Take a vocabulary; its tokens beyond the model's `vocab_size`, or missing there, never come."""
        texts = _Texts(vocabulary, vocab_size)
        self._num_mask_bytes = -(-vocab_size // 32) * 4
        self._tokens = LLTokenizer(TokenizerWrapper(texts), eos_token=texts.eos_token_ids)
        bits = sum(1 << token_id for token_id in texts.eos_token_ids)
        self._end_mask = bits.to_bytes(-(-len(texts.tokens) // 32) * 4, "little")

    def compile(self, grammar: str) -> tuple[LLMatcher, bytes]:
        """Return a matcher and the mask of the first token.

        Raises:
            GrammarError: the grammar is wrong or matches nothing.
        """
        matcher = LLMatcher(self._tokens, grammar, log_level=0, limits=LIMITS)
        mask = self._mask(matcher)
        if mask is None:
            raise GrammarError("it matches no text but the empty one")
        return matcher, mask

    def advance(self, matcher: LLMatcher, token_id: int) -> bytes | None:
        """Consume a token that the last mask allows, and return the next mask; None where nothing may follow.

        Raises:
            GrammarError: the grammar became too complex to follow.
        """
        matcher.consume_token(token_id)
        return self._mask(matcher)

    def _mask(self, matcher: LLMatcher) -> bytes | None:
        """Which tokens may come; None where the text is complete and can only end."""
        if not matcher.is_stopped():
            mask = matcher.compute_bitmask()
            if not matcher.is_stopped() and mask != self._end_mask:
                return mask[: self._num_mask_bytes]
        if not matcher.is_accepting():
            raise GrammarError(_explain(matcher))
        return None


class _Texts:
    """A vocabulary in the form that llguidance asks for."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, vocab_size: int) -> None:
        self.tokens = vocabulary.tokens[:vocab_size]
        self.tokens += [b""] * (vocab_size - len(self.tokens))
        self.special_token_ids = [one for one in vocabulary.special_token_ids if one < vocab_size]
        self.eos_token_ids = [one for one in vocabulary.eos_token_ids if one < vocab_size]
        if not self.eos_token_ids:  # one must be named, so it lies beyond the vocabulary
            self.eos_token_ids = [vocab_size]
            self.special_token_ids.append(vocab_size)
            self.tokens.append(b"<end>")
        self.eos_token_id = self.eos_token_ids[0]

    @functools.cached_property
    def _ids(self) -> dict[bytes, int]:
        return {text: token_id for token_id, text in enumerate(self.tokens)}

    def __call__(self, text: bytes) -> list[int]:
        """Encode a text, the longest token first: llguidance asks for texts that a grammar forces."""
        token_ids = []
        while text:
            length = next((n for n in range(len(text), 0, -1) if text[:n] in self._ids), 0)
            if not length:
                break
            token_ids.append(self._ids[text[:length]])
            text = text[length:]
        return token_ids


def _explain(matcher: LLMatcher) -> str:
    """Why a matcher stopped before the end."""
    text = " ".join(matcher.get_error().split())
    if not text or text.startswith("NoExtension"):
        return "it matches no text"
    return text[:MAX_ERROR_CHARACTERS]
