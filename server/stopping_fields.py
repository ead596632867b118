"""The bounds of `Stopping`: how long a choice may become, and what ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pagewire.v1 import inference_pb2
    from server.fields import Fields
    from server.served_model import ServedModel

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKEN_IDS = 64


class Lengths(NamedTuple):
    """When a choice ends, but for its text."""

    max_tokens: int
    """What was asked for; the prompt may leave less."""
    min_tokens: int
    eos_token_ids: tuple[int, ...]
    stop_token_ids: tuple[int, ...]


def lengths(fields: Fields, stopping: inference_pb2.Stopping, model: ServedModel) -> Lengths:
    """Check the numbers of tokens and the tokens that end a choice."""
    path, stop_token_ids = "spec.stopping.stop_token_ids", stopping.stop_token_ids
    fields.at_most(path, stop_token_ids, MAX_STOP_TOKEN_IDS, "token ids")
    fields.token_ids(path, stop_token_ids, model.info.vocab_size)
    return Lengths(
        max_tokens=_max_tokens(fields, stopping, model),
        min_tokens=_min_tokens(fields, stopping, model),
        eos_token_ids=() if stopping.ignore_eos else model.eos_token_ids,
        stop_token_ids=tuple(dict.fromkeys(stop_token_ids)),
    )


def stop_texts(fields: Fields, stopping: inference_pb2.Stopping) -> tuple[str, ...]:
    """Check the texts that end a choice."""
    path = "spec.stopping.stop"
    fields.at_most(path, stopping.stop, MAX_STOPS, "stop texts")
    for index, text in enumerate(stopping.stop):
        fields.require(bool(text), f"{path}[{index}]", "must not be empty")
        fields.at_most(f"{path}[{index}]", text, MAX_STOP_CHARACTERS, "characters")
    return tuple(stopping.stop)


def _max_tokens(fields: Fields, stopping: inference_pb2.Stopping, model: ServedModel) -> int:
    if not stopping.HasField("max_tokens"):
        return model.defaults.max_new_tokens or model.max_model_len
    fields.require(
        1 <= stopping.max_tokens <= model.max_model_len,
        "spec.stopping.max_tokens",
        f"{stopping.max_tokens} is out of range; expected at least 1 and at most {model.max_model_len},"
        " the context length",
    )
    return stopping.max_tokens


def _min_tokens(fields: Fields, stopping: inference_pb2.Stopping, model: ServedModel) -> int:
    most = stopping.max_tokens if stopping.HasField("max_tokens") else model.max_model_len
    fields.within("spec.stopping.min_tokens", stopping.min_tokens, 0, most)
    return stopping.min_tokens
