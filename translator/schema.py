"""From a request body to a typed request, and its options on to the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from pagewire.v1 import inference_pb2
from translator.errors import ApiError
from translator.fields import Endpoint, Support, fields_of, is_neutral
from translator.json_body import parse_json
from translator.type_errors import type_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from translator.fields import Field

# The bounds of the contract's number types. Narrower ranges are the server's to check.
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
UInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
RequestId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,128}\Z")]
Float32 = Annotated[float, Meta(ge=-3.4e38, le=3.4e38)]

_MAX_LOGIT_BIAS = 100.0
_NO_SEED = -1
_MAX_SHOWN = 8
_MAX_ID_DIGITS = 10


class StreamOptions(msgspec.Struct, kw_only=True):
    """What a stream carries beside the text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None

    @property
    def asks_for_something(self) -> bool:
        """Whether any option is given."""
        return self.include_usage is not None or self.continuous_usage_stats is not None


class RequestBody(msgspec.Struct, kw_only=True):
    """The body of a request."""

    def check_combinations(self) -> None:
        """Refuse fields that exclude each other.

        Raises:
            ApiError: 400; it names the field.
        """


class GenerationOptions(RequestBody, kw_only=True):
    """The fields that chat and completions share; `fields.py` says what each does."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stream_interval: UInt32 | None = None
    request_id: RequestId | None = None
    n: UInt32 | None = None
    max_tokens: UInt32 | None = None
    min_tokens: UInt32 | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[UInt32] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    temperature: Float32 | None = None
    top_p: Float32 | None = None
    top_k: Int32 | None = None
    min_p: Float32 | None = None
    frequency_penalty: Float32 | None = None
    presence_penalty: Float32 | None = None
    repetition_penalty: Float32 | None = None
    seed: Int64 | None = None
    use_beam_search: bool | None = None
    length_penalty: Float32 | None = None
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: list[UInt32] | None = None
    bad_words: list[str] | None = None
    logprob_token_ids: list[UInt32] | None = None
    prompt_logprobs: UInt32 | None = None
    skip_special_tokens: bool | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    priority: Int32 | None = None
    cache_salt: str | None = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: Int32 | None = None
    truncation_side: Literal["left", "right"] | None = None

    def check_combinations(self) -> None:
        """Refuse fields that exclude each other."""
        options = self.stream_options
        if options is not None and options.asks_for_something and not self.stream:
            raise ApiError(400, "stream_options: only allowed together with stream.", param="stream_options")
        if options is not None and options.continuous_usage_stats and not options.include_usage:
            name = "stream_options.continuous_usage_stats"
            raise ApiError(400, f"{name}: needs include_usage to be true.", param=name)
        if self.stream and self.prompt_logprobs is not None:
            raise ApiError(400, "prompt_logprobs: not available with stream.", param="prompt_logprobs")
        if self.allowed_token_ids == []:
            name = "allowed_token_ids"
            raise ApiError(400, f"{name}: expected at least one token id, or null for all.", param=name)
        if self.cache_salt == "":
            raise ApiError(400, "cache_salt: must not be empty; leave it out to share.", param="cache_salt")

    @property
    def given(self) -> frozenset[str]:
        """The fields that the request has."""
        return frozenset(name for name in self.__struct_fields__ if getattr(self, name) is not None)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that holds the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Whether every chunk holds the usage so far."""
        options = self.stream_options
        return self.include_usage and options is not None and bool(options.continuous_usage_stats)


RequestType = TypeVar("RequestType", bound=RequestBody)


def parse_request(body: bytes, request_type: type[RequestType], endpoint: Endpoint) -> RequestType:
    """Parse and check a request body.

    Raises:
        ApiError: 400; it names the field.
    """
    value = parse_json(body)
    if not isinstance(value, dict):
        raise ApiError(400, "The request body must be a JSON object.")
    for field in (field for each in endpoint for field in _REFUSED[each]):
        if field.name in value and not is_neutral(field, value[field.name]):
            raise ApiError(
                400,
                f"{field.name}: {field.note}.",
                param=field.name,
                code="unsupported_parameter",
            )
    try:
        request = msgspec.convert(value, request_type)
    except msgspec.ValidationError as error:
        raise type_error(error, value, request_type, endpoint) from error
    request.check_combinations()
    return request


def apply_options(spec: inference_pb2.GenerationSpec, options: GenerationOptions, endpoint: Endpoint) -> None:
    """Write the options of a request into the contract's message."""
    apply_plain(spec, options, endpoint)
    _apply_sampling(spec.sampling, options)
    if options.stream_interval is not None:
        spec.output.min_delta_tokens = options.stream_interval
    if options.stop is not None:
        spec.stopping.stop.extend([options.stop] if isinstance(options.stop, str) else options.stop)
    if options.return_token_ids:
        spec.output.token_ids = True
        spec.output.prompt_token_ids = True
    if options.truncation_side is not None:
        spec.truncation_side = (
            inference_pb2.TRUNCATION_SIDE_LEFT
            if options.truncation_side == "left"
            else inference_pb2.TRUNCATION_SIDE_RIGHT
        )


def apply_plain(spec: Message, body: RequestBody, endpoint: Endpoint) -> None:
    """Write the fields that go into the contract's message unchanged."""
    for path, name in _PLAIN[endpoint]:
        value = getattr(body, name)
        if value is not None:
            _put(spec, path, value)


def _apply_sampling(sampling: inference_pb2.Sampling, options: GenerationOptions) -> None:
    if options.n is not None:
        sampling.n = options.n
    if options.seed is not None and options.seed != _NO_SEED:
        sampling.seed = options.seed
    if options.logit_bias:
        sampling.logit_bias.update(_parse_bias(options.logit_bias))
    if options.use_beam_search:
        sampling.beam_search.SetInParent()
        if options.length_penalty is not None:
            sampling.beam_search.length_penalty = options.length_penalty


_REFUSED: Mapping[Endpoint, tuple[Field, ...]] = {
    endpoint: tuple(fields_of(endpoint, Support.REFUSED)) for endpoint in Endpoint
}
_PLAIN: Mapping[Endpoint, tuple[tuple[tuple[str, ...], str], ...]] = {
    endpoint: tuple(
        (tuple(field.contract.split(".")), field.name)
        for field in fields_of(endpoint, Support.HONOURED)
        if field.plain
    )
    for endpoint in Endpoint
}


def _put(message: Message, path: tuple[str, ...], value: object) -> None:
    *parents, name = path
    for parent in parents:
        message = getattr(message, parent)
    if isinstance(value, list):
        getattr(message, name).extend(value)
    else:
        setattr(message, name, value)


def _parse_bias(logit_bias: dict[str, float]) -> dict[int, float]:
    """Turn JSON's keys into token ids. Values are clamped to the contract's range."""
    bad = [key for key in logit_bias if not _is_token_id(key)]
    if bad:
        shown = ", ".join(ascii(key[:40]) for key in bad[:_MAX_SHOWN])
        raise ApiError(400, f"logit_bias: expected token ids as keys, got {shown}.", param="logit_bias")
    return {int(key): min(max(bias, -_MAX_LOGIT_BIAS), _MAX_LOGIT_BIAS) for key, bias in logit_bias.items()}


def _is_token_id(key: str) -> bool:
    return key.isascii() and key.isdecimal() and len(key) <= _MAX_ID_DIGITS and int(key) < 2**32
