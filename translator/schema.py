"""From a request body to a typed request: strict about JSON, lenient about fields that we do not know."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from pagewire.v1 import inference_pb2
from translator.errors import ApiError
from translator.fields import Endpoint, Support, fields_of, is_neutral

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from translator.fields import Field

# The bounds of the contract's number types. Narrower ranges are the server's to check.
Int32 = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
UInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Float32 = Annotated[float, Meta(ge=-3.4e38, le=3.4e38)]

MAX_DEPTH = 128
MAX_NODES = 100_000
_MAX_LOGIT_BIAS = 100.0
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# The closing quote may be missing, so that no text is scanned twice.
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NO_STRUCTURE = re.compile(r"[^\[\]{}:]+")


class StreamOptions(msgspec.Struct, kw_only=True):
    """What a stream carries beside the text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class GenerationOptions(msgspec.Struct, kw_only=True):
    """The fields that chat and completions share; `fields.py` says what each does."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
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
    logit_bias: dict[str, float] | None = None
    allowed_token_ids: list[UInt32] | None = None
    bad_words: list[str] | None = None
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
        if self.stream_options is not None and not self.stream:
            raise ApiError(400, "stream_options: only allowed together with stream.", param="stream_options")
        if self.stream and self.prompt_logprobs is not None:
            raise ApiError(400, "prompt_logprobs: not available with stream.", param="prompt_logprobs")

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that holds the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Whether every chunk holds the usage so far."""
        options = self.stream_options
        return self.include_usage and options is not None and bool(options.continuous_usage_stats)


RequestType = TypeVar("RequestType", bound=GenerationOptions)


def parse_request(body: bytes, request_type: type[RequestType], endpoint: Endpoint) -> RequestType:
    """Parse and check a request body.

    Raises:
        ApiError: 400; it names the field.
    """
    value = parse_json(body)
    if not isinstance(value, dict):
        raise ApiError(400, "The request body must be a JSON object.")
    for field in _REFUSED[endpoint]:
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
        raise _field_error(str(error)) from error
    request.check_combinations()
    return request


def parse_json(body: bytes) -> Any:
    """Decode JSON as RFC 8259 has it: UTF-8, unique keys, finite numbers, whole characters.

    Raises:
        ApiError: 400; it is not.
    """
    try:
        text = body.decode()
        if sum(map(text.count, "[{:")) > MAX_DEPTH:
            _check_structure(text)
        value = _DECODER.decode(text)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ApiError(400, "The request body is not valid UTF-8.") from error
    except UnicodeEncodeError as error:
        raise ApiError(400, "The request body contains an unpaired surrogate.") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ApiError(400, f"The request body is not valid JSON: {error.msg} at {where}.") from error
    except ValueError as error:  # an integer with more digits than Python converts
        raise ApiError(400, "The request body contains a number that is out of range.") from error
    return value


def _check_structure(text: str) -> None:
    """Refuse what would take long to decode, before it is decoded.

    The innermost brackets are stripped level by level: each pass is one scan, however hostile the text.
    """
    structure = _NO_STRUCTURE.sub("", _STRING.sub("", text))
    if sum(map(structure.count, "[{:")) > MAX_NODES:
        raise ApiError(400, f"The request body has more than {MAX_NODES} arrays, objects and members.")
    brackets = structure.replace(":", "")
    for _ in range(MAX_DEPTH):
        outer = brackets.replace("[]", "").replace("{}", "")
        if outer == brackets:
            break
        brackets = outer
    else:
        if brackets:
            raise _too_deep()
    if brackets.count("[") + brackets.count("{") > MAX_DEPTH:
        raise _too_deep()


def _too_deep() -> ApiError:
    return ApiError(400, f"The request body is nested more than {MAX_DEPTH} levels deep.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ApiError(400, f"The request body names {twice[:100]!a} twice in one object.", param=twice[:100])
    return value


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ApiError(400, "The request body contains a number that is out of range.")
    return number


def _no_constant(name: str) -> float:
    raise ApiError(400, f"The request body is not valid JSON: {name} is not a number.")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)


def _field_error(message: str) -> ApiError:
    """Turn msgspec's "Expected … - at `$.path`" into an error that names the parameter."""
    reason, _, path = message.partition(" - at `")
    param = path.rstrip("`").removeprefix("key in ").removeprefix("$").removeprefix(".") or None
    missing = re.fullmatch(r"Object missing required field `(.+)`", reason)
    if missing:
        param = f"{param}.{missing[1]}" if param else missing[1]
        reason = "required"
    reason = reason[:1].lower() + reason[1:]
    return ApiError(400, f"{param}: {reason}." if param else f"{reason}.", param=param, code="invalid_type")


def apply_options(spec: inference_pb2.GenerationSpec, options: GenerationOptions, endpoint: Endpoint) -> None:
    """Write the options of a request into the contract's message."""
    for path, name in _PLAIN[endpoint]:
        value = getattr(options, name)
        if value is not None:
            _put(spec, path, value)
    if options.n is not None:
        spec.sampling.n = options.n
    if options.stop is not None:
        spec.stopping.stop.extend([options.stop] if isinstance(options.stop, str) else options.stop)
    if options.logit_bias:
        for token_id, bias in _parse_bias(options.logit_bias).items():
            spec.sampling.logit_bias[token_id] = bias
    if options.return_token_ids:
        spec.output.token_ids = True
        spec.output.prompt_token_ids = True
    if options.truncation_side is not None:
        spec.truncation_side = (
            inference_pb2.TRUNCATION_SIDE_LEFT
            if options.truncation_side == "left"
            else inference_pb2.TRUNCATION_SIDE_RIGHT
        )


_REFUSED: Mapping[Endpoint, tuple[Field, ...]] = {
    endpoint: tuple(fields_of(endpoint, Support.REFUSED))
    for endpoint in (Endpoint.CHAT, Endpoint.COMPLETIONS)
}
_PLAIN: Mapping[Endpoint, tuple[tuple[tuple[str, ...], str], ...]] = {
    endpoint: tuple(
        (tuple(field.contract.split(".")), field.name)
        for field in fields_of(endpoint, Support.HONOURED)
        if field.plain
    )
    for endpoint in (Endpoint.CHAT, Endpoint.COMPLETIONS)
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
    bad = [key for key in logit_bias if not (key.isascii() and key.isdecimal() and int(key) < 2**32)]
    if bad:
        shown = ", ".join(repr(key[:40]) for key in bad[:8])
        raise ApiError(400, f"logit_bias: not a token id: {shown}.", param="logit_bias")
    return {int(key): min(max(bias, -_MAX_LOGIT_BIAS), _MAX_LOGIT_BIAS) for key, bias in logit_bias.items()}
