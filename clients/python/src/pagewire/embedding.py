"""The arguments of `embed`, and the request that they make."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict

from pagewire.chat import refuse, to_chat
from pagewire.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pagewire.v1 import chat_pb2

    Inputs = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]

_POOLINGS = {
    "last": inference_pb2.POOLING_LAST,
    "mean": inference_pb2.POOLING_MEAN,
    "cls": inference_pb2.POOLING_CLS,
}
_SIDES = {"left": inference_pb2.TRUNCATION_SIDE_LEFT, "right": inference_pb2.TRUNCATION_SIDE_RIGHT}


class EmbedOptions(TypedDict, total=False):
    """Options of embed. What is absent takes the model's default.

    Ranges and defaults stand at the fields of the same names in `inference.proto`.
    """

    model: str
    add_special_tokens: bool
    truncate_prompt_tokens: int
    truncation_side: Literal["left", "right"]
    pooling: Literal["last", "mean", "cls"]
    normalize: bool
    dimensions: int
    priority: int
    cache_salt: str
    bypass_prefix_cache: bool


def build_embed_request(
    inputs: Inputs | None,
    messages: Sequence[Mapping[str, object] | chat_pb2.Message] | None,
    options: EmbedOptions,
) -> inference_pb2.EmbedRequest:
    """Return the request.

    Raises:
        InvalidRequestError: inputs and messages are both given or both absent, or a value has the wrong type.
        TypeError: an option is not known.
    """
    if (inputs is None) == (messages is None):
        raise refuse("inputs", "expected either inputs or messages")
    request = inference_pb2.EmbedRequest()
    if inputs is not None:
        request.inputs.extend(_inputs(inputs))
    elif messages is not None:
        request.inputs.add(chat=to_chat(messages))
    for name, value in options.items():
        if name not in EmbedOptions.__annotations__:
            raise TypeError(f"{name} is not an option of embed; see pagewire.EmbedOptions")
        if value is not None:
            _apply(request, name, value)
    return request


def _inputs(inputs: Inputs) -> list[inference_pb2.EmbedInput]:
    if isinstance(inputs, str):
        return [_input(inputs)]
    is_one = bool(inputs) and all(isinstance(item, int) for item in inputs)
    return [_input(item) for item in ([inputs] if is_one else inputs)]


def _input(value: object) -> inference_pb2.EmbedInput:
    if isinstance(value, str):
        return inference_pb2.EmbedInput(text=value)
    try:
        ids = inference_pb2.TokenIds(ids=value)  # type: ignore[arg-type] # protobuf checks it
    except (TypeError, ValueError) as error:
        raise refuse("inputs", f"expected texts or token ids, got {value!r:.80}: {error}") from error
    return inference_pb2.EmbedInput(token_ids=ids)


def _apply(request: inference_pb2.EmbedRequest, name: str, value: object) -> None:
    try:
        match name:
            case "pooling":
                request.pooling = _POOLINGS[str(value)]
            case "truncation_side":
                request.truncation_side = _SIDES[str(value)]
            case "priority":
                request.scheduling.MergeFrom(inference_pb2.Scheduling(priority=value))  # type: ignore[arg-type]
            case "cache_salt":
                request.cache.MergeFrom(inference_pb2.CacheOptions(salt=value))  # type: ignore[arg-type]
            case "bypass_prefix_cache":
                request.cache.MergeFrom(inference_pb2.CacheOptions(bypass=value))  # type: ignore[arg-type]
            case _:
                request.MergeFrom(inference_pb2.EmbedRequest(**{name: value}))  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError) as error:
        kind = type(value).__name__
        raise refuse(name, f"{kind} {value!r:.80} does not fit the field: {error}") from error
