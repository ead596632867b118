"""From `EmbedRequest` to a request that the rest of the server can rely on."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.messages import Pooling
from pagewire.channel import MAX_RECEIVE_BYTES
from pagewire.v1 import inference_pb2
from server.conversations import parse_chat
from server.errors import ContextLengthError, UnsupportedByModelError, Violation
from server.fields import Fields, invalid
from server.prompts import Prompt, Truncation, encode, encode_to_fit, packed
from server.tokenizer import InvalidTextError
from server.validation import cache_salt, queue_timeout_s

if TYPE_CHECKING:
    from server.served_model import ServedModel

MAX_INPUTS = 2048
# What clients accept, less some bytes around each vector.
MAX_ANSWER_BYTES = MAX_RECEIVE_BYTES - 64 * MAX_INPUTS

_POOLINGS = {
    inference_pb2.POOLING_LAST: Pooling.LAST,
    inference_pb2.POOLING_MEAN: Pooling.MEAN,
    inference_pb2.POOLING_CLS: Pooling.CLS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest:
    """A checked request."""

    prompts: list[Prompt]
    truncation: Truncation | None
    pooling: Pooling
    normalizes: bool
    num_dimensions: int
    priority: int
    queue_timeout_s: float | None
    cache_salt: str
    bypass_prefix_cache: bool


def validate_embedding(request: inference_pb2.EmbedRequest, model: ServedModel) -> EmbeddingRequest:
    """Check a request against the contract's bounds and the model.

    Raises:
        InvalidRequestError: fields were refused.
        UnsupportedByModelError: the model makes no embeddings.
    """
    if not model.info.embedding_dimensions:
        raise UnsupportedByModelError(f"the model {model.name!r} makes no embeddings")
    fields = Fields()
    num_dimensions = _num_dimensions(fields, request, model)
    _check_inputs(fields, request, num_dimensions)
    checked = EmbeddingRequest(
        prompts=[
            _prompt(fields, f"inputs[{index}]", one, request, model)
            for index, one in enumerate(request.inputs[:MAX_INPUTS])
        ],
        truncation=_truncation(fields, request, model.max_model_len),
        pooling=_pooling(fields, request, model),
        normalizes=request.normalize if request.HasField("normalize") else model.info.normalizes_embeddings,
        num_dimensions=num_dimensions,
        priority=request.scheduling.priority,
        queue_timeout_s=queue_timeout_s(fields, "scheduling.queue_timeout", request.scheduling),
        cache_salt=cache_salt(fields, "cache.salt", request.cache),
        bypass_prefix_cache=request.cache.bypass,
    )
    fields.check()
    return checked


def encode_inputs(request: EmbeddingRequest, model: ServedModel) -> list[array[int]]:
    """Encode and cut all inputs, whose conversations have been rendered before. It takes CPU time.

    Raises:
        InvalidRequestError: an input has no tokens or cannot be encoded.
        ContextLengthError: an input is too long.
    """
    return [_encode(prompt, request.truncation, model) for prompt in request.prompts]


def _encode(prompt: Prompt, truncation: Truncation | None, model: ServedModel) -> array[int]:
    if truncation is None:
        token_ids = encode_to_fit(prompt, truncation, model).token_ids
    elif prompt.text is not None:
        try:
            kept = model.tokenizer.encode_within(
                prompt.text,
                prompt.add_special_tokens,
                truncation.max_tokens,
                keeps_end=truncation.keeps_end,
            )
        except InvalidTextError as error:
            raise invalid(prompt.path, str(error)) from error
        token_ids = array("I", kept)
    else:
        token_ids = truncation.cut(encode(prompt, model).token_ids)
    if not token_ids:
        raise invalid(prompt.path, "the input has no tokens; at least one is needed")
    if len(token_ids) > model.max_model_len:
        description = (
            f"This model's maximum context length is {model.max_model_len} tokens. However, this input has"
            f" {len(token_ids)} tokens. Please shorten it, or set truncate_prompt_tokens."
        )
        raise ContextLengthError([Violation(prompt.path, description)])
    return token_ids


def _check_inputs(fields: Fields, request: inference_pb2.EmbedRequest, num_dimensions: int) -> None:
    fields.require(len(request.inputs) > 0, "inputs", "must not be empty")
    fields.at_most("inputs", request.inputs, MAX_INPUTS, "inputs")
    most = MAX_ANSWER_BYTES // (4 * max(num_dimensions, 1))
    fields.require(
        len(request.inputs) <= max(most, 1),
        "inputs",
        f"{len(request.inputs)} vectors of {num_dimensions} components are too large for one answer;"
        f" expected at most {most} inputs",
    )


def _prompt(
    fields: Fields,
    path: str,
    given: inference_pb2.EmbedInput,
    request: inference_pb2.EmbedRequest,
    model: ServedModel,
) -> Prompt:
    adds = request.add_special_tokens if request.HasField("add_special_tokens") else None
    match given.WhichOneof("kind"):
        case "text":
            fields.require(bool(given.text), f"{path}.text", "must not be empty")
            return Prompt(f"{path}.text", text=given.text, add_special_tokens=adds is not False)
        case "token_ids":
            token_ids = packed(given.token_ids.ids)
            fields.require(bool(token_ids), f"{path}.token_ids", "must not be empty")
            fields.token_ids(f"{path}.token_ids.ids", token_ids, model.info.vocab_size)
            return Prompt(f"{path}.token_ids", token_ids=token_ids)
        case "chat":
            conversation = parse_chat(fields, f"{path}.chat", given.chat)
            return Prompt(f"{path}.chat", conversation=conversation, add_special_tokens=bool(adds))
        case _:
            fields.refuse(path, "an input is needed: text, token_ids or chat")
            return Prompt(path)


def _num_dimensions(fields: Fields, request: inference_pb2.EmbedRequest, model: ServedModel) -> int:
    if not request.HasField("dimensions"):
        return model.info.embedding_dimensions
    fields.within("dimensions", request.dimensions, 1, model.info.embedding_dimensions)
    return request.dimensions


def _pooling(fields: Fields, request: inference_pb2.EmbedRequest, model: ServedModel) -> Pooling:
    supported = model.info.poolings
    fields.enum("pooling", request.pooling, inference_pb2.Pooling.values())
    pooling = _POOLINGS.get(request.pooling, supported[0])
    if pooling not in supported:
        names = " and ".join(kind.name for kind in supported)
        fields.refuse("pooling", f"{pooling.name} is not supported for this model; it supports {names}")
    return pooling


def _truncation(fields: Fields, request: inference_pb2.EmbedRequest, max_model_len: int) -> Truncation | None:
    fields.enum("truncation_side", request.truncation_side, inference_pb2.TruncationSide.values())
    if not request.HasField("truncate_prompt_tokens"):
        return None
    limit = request.truncate_prompt_tokens
    if limit == -1:
        limit = max_model_len
    fields.within("truncate_prompt_tokens", limit, 1, max_model_len)
    return Truncation(limit, keeps_end=request.truncation_side == inference_pb2.TRUNCATION_SIDE_LEFT)
