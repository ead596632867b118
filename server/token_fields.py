"""Fields of a request that name tokens: those that may come, words that may not, and those to report on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from engine.messages import SamplingParams
    from pagewire.v1 import inference_pb2
    from server.fields import Fields
    from server.served_model import ServedModel

MAX_BAD_WORDS = 128
MAX_BAD_WORD_CHARACTERS = 256
MAX_LOGPROB_TOKEN_IDS = 128


def with_tokens(
    fields: Fields, spec: inference_pb2.GenerationSpec, model: ServedModel, sampling: SamplingParams
) -> SamplingParams:
    """Check `allowed_token_ids`, `bad_words` and `logprob_token_ids`, and add them to the sampling values."""
    vocab_size = model.info.vocab_size
    allowed, listed = spec.sampling.allowed_token_ids, spec.output.logprob_token_ids
    fields.token_ids("spec.sampling.allowed_token_ids", allowed, vocab_size)
    path = "spec.output.logprob_token_ids"
    fields.at_most(path, listed, MAX_LOGPROB_TOKEN_IDS, "token ids")
    fields.token_ids(path, listed, vocab_size)
    fields.require(not listed or spec.output.HasField("logprobs"), path, "needs output.logprobs")
    return msgspec.structs.replace(
        sampling,
        allowed_token_ids=tuple(dict.fromkeys(allowed)),
        bad_words=_bad_words(fields, spec.sampling, model),
        logprob_token_ids=tuple(dict.fromkeys(listed)),
    )


def _bad_words(
    fields: Fields, given: inference_pb2.Sampling, model: ServedModel
) -> tuple[tuple[int, ...], ...]:
    """Encode each word as it stands at the beginning of a text and after a space."""
    path = "spec.sampling.bad_words"
    fields.at_most(path, given.bad_words, MAX_BAD_WORDS, "words")
    encoded: dict[tuple[int, ...], None] = {}
    for index, word in enumerate(given.bad_words[:MAX_BAD_WORDS]):
        bare = word.strip(" ")
        if not bare:
            fields.refuse(f"{path}[{index}]", "must not be empty")
            continue
        fields.at_most(f"{path}[{index}]", word, MAX_BAD_WORD_CHARACTERS, "characters")
        for text in (bare, f" {bare}"):
            encoded[tuple(model.tokenizer.encode(text[: MAX_BAD_WORD_CHARACTERS + 1], False))] = None
    # The model cannot generate what lies beyond its vocabulary.
    return tuple(word for word in encoded if word and max(word) < model.info.vocab_size)
