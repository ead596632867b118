"""From `GenerationSpec` to values that the rest of the server can rely on.

Every bound of inference.proto is checked here. All refused fields are reported together, each by its
path in the request, such as "spec.sampling.temperature".
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from engine.messages import SamplingParams
from pagewire.v1 import inference_pb2
from server.conversations import parse_chat
from server.errors import NotFoundError
from server.fields import Fields, shown
from server.prompts import Prompt, Truncation

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from server.served_model import ServedModel

# Fields of the contract that this version refuses.
UNIMPLEMENTED = (
    "constraint",
    "reasoning",
    "sampling.allowed_token_ids",
    "sampling.bad_words",
    "sampling.beam_search",
    "output.logprob_token_ids",
    "output.min_delta_tokens",
    "chat.template",
)

MAX_CHOICES = 128
MAX_LOGPROBS = 20
MAX_LOGIT_BIASES = 300
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKEN_IDS = 64
MAX_SALT_CHARACTERS = 128
_INT64 = 1 << 64

# Field of Sampling, its bounds, and whether the lower one is itself refused.
_RANGES = (
    ("temperature", 0, 2, False),
    ("top_p", 0, 1, True),
    ("min_p", 0, 1, False),
    ("repetition_penalty", 0, 10, True),
    ("presence_penalty", -2, 2, False),
    ("frequency_penalty", -2, 2, False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """A checked request."""

    prompt: Prompt
    truncation: Truncation | None
    sampling: SamplingParams
    """Of choice 0. `max_tokens` is what was asked for; see `for_prompt`."""
    num_choices: int
    stop: tuple[str, ...]
    include_stop_text: bool
    skip_special_tokens: bool
    returns_token_ids: bool
    returns_prompt_token_ids: bool
    returns_prompt_text: bool
    priority: int
    queue_timeout_s: float | None
    cache_salt: str
    bypass_prefix_cache: bool

    def for_prompt(self, num_prompt_tokens: int, max_model_len: int) -> SamplingParams:
        """The sampling values of choice 0 once the prompt's length is known."""
        max_tokens = min(self.sampling.max_tokens, max_model_len - num_prompt_tokens)
        min_tokens = min(self.sampling.min_tokens, max_tokens)
        return msgspec.structs.replace(self.sampling, max_tokens=max_tokens, min_tokens=min_tokens)

    def for_choice(self, sampling: SamplingParams, index: int) -> SamplingParams:
        """The sampling values of one choice: choice i draws from seed + i, within int64."""
        seed = (sampling.seed + index + _INT64 // 2) % _INT64 - _INT64 // 2
        return msgspec.structs.replace(sampling, seed=seed)


def validate(spec: inference_pb2.GenerationSpec, model: ServedModel, max_logprobs: int) -> GenerationRequest:
    """Check a request against the contract's bounds and the model.

    Raises:
        InvalidRequestError: fields were refused.
        NotFoundError: the adapter does not exist.
    """
    if spec.adapter:
        raise NotFoundError("ADAPTER_NOT_FOUND", f"the adapter {shown(spec.adapter)} is not loaded")
    fields = Fields()
    for path in UNIMPLEMENTED:
        fields.require(not _is_given(spec, path), f"spec.{path}", "not implemented by this server")
    prompt = _prompt(fields, spec, model)
    scheduling, cache, output = spec.scheduling, spec.cache, spec.output
    fields.at_most("spec.cache.salt", cache.salt, MAX_SALT_CHARACTERS, "characters")
    request = GenerationRequest(
        prompt=prompt,
        truncation=_truncation(fields, spec, model.max_model_len),
        sampling=_sampling(fields, spec, model, min(max_logprobs, MAX_LOGPROBS)),
        num_choices=_num_choices(fields, spec.sampling),
        stop=_stop(fields, spec.stopping),
        include_stop_text=spec.stopping.include_stop_text,
        skip_special_tokens=output.skip_special_tokens if output.HasField("skip_special_tokens") else True,
        returns_token_ids=output.token_ids,
        returns_prompt_token_ids=output.prompt_token_ids,
        returns_prompt_text=output.prompt_text,
        priority=scheduling.priority,
        queue_timeout_s=_queue_timeout_s(fields, scheduling),
        cache_salt=cache.salt,
        bypass_prefix_cache=cache.bypass,
    )
    _check_greedy(fields, request)
    fields.check()
    return request


def _is_given(message: Message, path: str) -> bool:
    """Whether the field at `path` is present, or not empty where it is repeated."""
    name, _, rest = path.partition(".")
    given = {field.name: value for field, value in message.ListFields()}
    return name in given and (not rest or _is_given(given[name], rest))


def _prompt(fields: Fields, spec: inference_pb2.GenerationSpec, model: ServedModel) -> Prompt:
    add_special_tokens = spec.add_special_tokens if spec.HasField("add_special_tokens") else None
    match spec.WhichOneof("prompt"):
        case "text":
            fields.require(bool(spec.text), "spec.text", "must not be empty")
            return Prompt("spec.text", text=spec.text, add_special_tokens=add_special_tokens is not False)
        case "token_ids":
            token_ids = list(spec.token_ids.ids)
            fields.require(bool(token_ids), "spec.token_ids", "must not be empty")
            fields.token_ids("spec.token_ids.ids", token_ids, model.info.vocab_size)
            return Prompt("spec.token_ids", token_ids=token_ids)
        case "chat":
            conversation = parse_chat(fields, "spec.chat", spec.chat)
            return Prompt("spec.chat", conversation=conversation, add_special_tokens=bool(add_special_tokens))
        case _:
            fields.refuse("spec.prompt", "a prompt is needed: text, token_ids or chat")
            return Prompt("spec.prompt")


def _truncation(fields: Fields, spec: inference_pb2.GenerationSpec, max_model_len: int) -> Truncation | None:
    fields.enum("spec.truncation_side", spec.truncation_side, inference_pb2.TruncationSide.values())
    if not spec.HasField("truncate_prompt_tokens"):
        return None
    limit = spec.truncate_prompt_tokens
    if limit == -1:
        limit = max_model_len - 1
    fields.within("spec.truncate_prompt_tokens", limit, 1, max_model_len)
    return Truncation(limit, keeps_end=spec.truncation_side != inference_pb2.TRUNCATION_SIDE_RIGHT)


def _sampling(
    fields: Fields, spec: inference_pb2.GenerationSpec, model: ServedModel, max_logprobs: int
) -> SamplingParams:
    given, stopping, output, defaults = spec.sampling, spec.stopping, spec.output, model.defaults

    def number(name: str, default: float | None, fallback: float) -> float:
        value: float = getattr(given, name)
        return value if _is_given(given, name) else fallback if default is None else default

    sampling = SamplingParams(
        max_tokens=_max_tokens(fields, stopping, model),
        temperature=number("temperature", defaults.temperature, 1.0),
        top_k=max(0, int(number("top_k", defaults.top_k, 0))),
        top_p=number("top_p", defaults.top_p, 1.0),
        min_p=number("min_p", defaults.min_p, 0.0),
        repetition_penalty=number("repetition_penalty", defaults.repetition_penalty, 1.0),
        presence_penalty=given.presence_penalty,
        frequency_penalty=given.frequency_penalty,
        seed=given.seed if given.HasField("seed") else secrets.randbits(63),
        logit_bias=_logit_bias(fields, given, model.info.vocab_size),
        min_tokens=_min_tokens(fields, stopping, model),
        eos_token_ids=() if stopping.ignore_eos else model.eos_token_ids,
        stop_token_ids=tuple(dict.fromkeys(stopping.stop_token_ids)),
        num_logprobs=_num_logprobs(fields, output, "logprobs", max_logprobs),
        num_prompt_logprobs=_num_logprobs(fields, output, "prompt_logprobs", max_logprobs),
    )
    for name, low, high, above_low in _RANGES:
        if _is_given(given, name):
            fields.within(f"spec.sampling.{name}", getattr(given, name), low, high, above_low=above_low)
    if given.HasField("top_k"):
        fields.within("spec.sampling.top_k", given.top_k, -1, model.info.vocab_size)
    fields.at_most("spec.stopping.stop_token_ids", stopping.stop_token_ids, MAX_STOP_TOKEN_IDS, "token ids")
    fields.token_ids("spec.stopping.stop_token_ids", stopping.stop_token_ids, model.info.vocab_size)
    return sampling


def _logit_bias(fields: Fields, given: inference_pb2.Sampling, vocab_size: int) -> dict[int, float]:
    path = "spec.sampling.logit_bias"
    fields.at_most(path, given.logit_bias, MAX_LOGIT_BIASES, "entries")
    for token_id, bias in given.logit_bias.items():
        if token_id >= vocab_size:
            fields.refuse(path, f"{token_id} is not a token id; expected less than {vocab_size}")
        fields.finite(f"{path}[{token_id}]", bias)
    return {token_id: min(max(bias, -100.0), 100.0) for token_id, bias in given.logit_bias.items()}


def _max_tokens(fields: Fields, stopping: inference_pb2.Stopping, model: ServedModel) -> int:
    if not stopping.HasField("max_tokens"):
        return model.defaults.max_new_tokens or model.max_model_len
    fields.require(
        stopping.max_tokens >= 1, "spec.stopping.max_tokens", "0 is out of range; expected at least 1"
    )
    return stopping.max_tokens


def _min_tokens(fields: Fields, stopping: inference_pb2.Stopping, model: ServedModel) -> int:
    most = stopping.max_tokens if stopping.HasField("max_tokens") else model.max_model_len
    fields.within("spec.stopping.min_tokens", stopping.min_tokens, 0, most)
    return stopping.min_tokens


def _num_logprobs(fields: Fields, output: inference_pb2.OutputOptions, name: str, most: int) -> int | None:
    if not _is_given(output, name):
        return None
    value: int = getattr(output, name)
    fields.within(f"spec.output.{name}", value, 0, most)
    return value


def _num_choices(fields: Fields, given: inference_pb2.Sampling) -> int:
    if not given.HasField("n"):
        return 1
    fields.within("spec.sampling.n", given.n, 1, MAX_CHOICES)
    return given.n


def _stop(fields: Fields, stopping: inference_pb2.Stopping) -> tuple[str, ...]:
    path = "spec.stopping.stop"
    fields.at_most(path, stopping.stop, MAX_STOPS, "stop texts")
    for index, text in enumerate(stopping.stop):
        fields.require(bool(text), f"{path}[{index}]", "must not be empty")
        fields.at_most(f"{path}[{index}]", text, MAX_STOP_CHARACTERS, "characters")
    return tuple(stopping.stop)


def _queue_timeout_s(fields: Fields, scheduling: inference_pb2.Scheduling) -> float | None:
    if not scheduling.HasField("queue_timeout"):
        return None
    timeout_s = scheduling.queue_timeout.seconds + scheduling.queue_timeout.nanos / 1e9
    fields.require(timeout_s > 0, "spec.scheduling.queue_timeout", f"{timeout_s:g} s; expected more than 0")
    return timeout_s


def _check_greedy(fields: Fields, request: GenerationRequest) -> None:
    if request.num_choices > 1 and request.sampling.temperature == 0:
        fields.refuse("spec.sampling.n", "more than one choice needs a temperature above 0")
