"""Prompts: encoded and cut to length. It takes CPU time, so it runs in threads."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from server.errors import ContextLengthError, Violation
from server.fields import invalid
from server.tokenizer import InvalidTextError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.conversations import Conversation
    from server.served_model import ServedModel


# More than texts have: where a beginning of this length has twice the context's tokens, the rest is not read.
_CHARACTERS_PER_TOKEN = 16


@dataclass(frozen=True, slots=True)
class Truncation:
    """How a prompt that is too long is cut."""

    max_tokens: int
    keeps_end: bool

    def cut(self, token_ids: array[int]) -> array[int]:
        """Return the tokens that are kept."""
        return token_ids[-self.max_tokens :] if self.keeps_end else token_ids[: self.max_tokens]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A checked prompt. Exactly one of text, token ids and conversation is not None."""

    path: str
    """Of the field that gave it, for errors."""
    text: str | None = None
    token_ids: array[int] | None = None
    conversation: Conversation | None = None
    add_special_tokens: bool = False


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as the engine takes it, and its text where it had one."""

    token_ids: array[int]
    text: str | None


def packed(token_ids: Sequence[int]) -> array[int]:
    """Return a message's token ids, four bytes each. NumPy copies them: none becomes a Python object."""
    numbers = array("I")
    numbers.frombytes(np.array(token_ids, np.uint32).tobytes())
    return numbers


def encode(prompt: Prompt, model: ServedModel) -> EncodedPrompt:
    """Encode a prompt; a conversation has been rendered before, by a `TemplateRenderer`.

    Raises:
        InvalidRequestError: the text cannot be encoded.
    """
    if prompt.token_ids is not None:
        return EncodedPrompt(prompt.token_ids, None)
    assert prompt.text is not None
    try:
        token_ids = model.tokenizer.encode(prompt.text, prompt.add_special_tokens)
    except InvalidTextError as error:
        raise invalid(prompt.path, str(error)) from error
    return EncodedPrompt(array("I", token_ids), prompt.text)


def encode_to_fit(prompt: Prompt, truncation: Truncation | None, model: ServedModel) -> EncodedPrompt:
    """Encode a prompt that must fit the context: of a text that never will, only the beginning.

    Raises:
        InvalidRequestError: the text cannot be encoded.
        ContextLengthError: it is far too long.
    """
    text, limit = prompt.text or "", model.max_model_len
    beginning = text[: limit * _CHARACTERS_PER_TOKEN]
    if truncation is None and len(beginning) < len(text):
        num_tokens = len(encode(replace(prompt, text=beginning), model).token_ids)
        if num_tokens > 2 * limit:
            description = (
                f"This model's maximum context length is {limit} tokens. However, your text has more than"
                f" {num_tokens} tokens. Please reduce its length."
            )
            raise ContextLengthError([Violation(prompt.path, description)])
    return encode(prompt, model)


def fit(
    encoded: EncodedPrompt, prompt: Prompt, truncation: Truncation | None, model: ServedModel
) -> EncodedPrompt:
    """Cut a prompt as its request asks, and check that the context leaves room for an output.

    Raises:
        InvalidRequestError: the prompt is empty.
        ContextLengthError: it is too long.
    """
    token_ids = encoded.token_ids
    if truncation is not None and len(token_ids) > truncation.max_tokens:
        encoded = EncodedPrompt(truncation.cut(token_ids), None)
    if not encoded.token_ids:
        raise invalid(prompt.path, "the prompt has no tokens; at least one is needed")
    if len(encoded.token_ids) >= model.max_model_len:
        description = (
            f"This model's maximum context length is {model.max_model_len} tokens. However, your prompt has"
            f" {len(encoded.token_ids)} tokens, and at least 1 must be left for the output. Please reduce the"
            " length of the prompt."
        )
        raise ContextLengthError([Violation(prompt.path, description)])
    return encoded


def text_of(encoded: EncodedPrompt, model: ServedModel) -> str:
    """The prompt as text, decoded from its tokens where it had none or was cut."""
    if encoded.text is not None:
        return encoded.text
    return model.tokenizer.decode(encoded.token_ids, skip_special_tokens=False)
