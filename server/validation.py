"""From `GenerationSpec` to a request that the rest of the server can rely on.

Every bound of inference.proto is checked, here and in the files named after the contract's messages. All
refused fields are reported together, each by its path in the request, such as "spec.sampling.temperature".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pagewire.v1 import inference_pb2
from server.chat_tools import ToolUse
from server.constraints import parse_constraint
from server.conversations import parse_chat
from server.fields import Fields
from server.generation_request import GenerationRequest
from server.output_format import check_strict, output_format
from server.prompts import Prompt, Truncation, packed
from server.reasoning_fields import parse_reasoning
from server.sampling_fields import length_penalty, num_choices, sampling_params
from server.stopping_fields import lengths, stop_texts
from server.token_fields import with_tokens

if TYPE_CHECKING:
    from server.served_model import ServedModel

MAX_SALT_CHARACTERS = 128
# They separate the parts of names that caches are kept under elsewhere.
_NOT_IN_SALTS = "@/\\\0"


def validate(spec: inference_pb2.GenerationSpec, model: ServedModel, max_logprobs: int) -> GenerationRequest:
    """Check a request against the contract's bounds and the model.

    Raises:
        InvalidRequestError: fields were refused.
    """
    fields = Fields()
    output = spec.output
    sampling = sampling_params(fields, spec, model, lengths(fields, spec.stopping, model), max_logprobs)
    sampling = with_tokens(fields, spec, model, sampling)
    prompt = _prompt(fields, spec, model)
    tools = prompt.conversation.tools if prompt.conversation else ToolUse()
    reasoning = parse_reasoning(fields, spec, model)
    check_strict(fields, tools, model)
    request = GenerationRequest(
        prompt=prompt,
        truncation=_truncation(fields, spec, model.max_model_len),
        sampling=sampling,
        num_choices=num_choices(fields, spec.sampling, sampling, model.info.vocab_size),
        output=output_format(tools, reasoning, model),
        constraint=parse_constraint(fields, spec.constraint) if spec.HasField("constraint") else None,
        tools=tools,
        reasoning=reasoning,
        length_penalty=length_penalty(fields, spec),
        stop=stop_texts(fields, spec.stopping),
        include_stop_text=spec.stopping.include_stop_text,
        skip_special_tokens=output.skip_special_tokens if output.HasField("skip_special_tokens") else True,
        returns_token_ids=output.token_ids,
        returns_prompt_token_ids=output.prompt_token_ids,
        returns_prompt_text=output.prompt_text,
        min_delta_tokens=_min_delta_tokens(fields, output),
        priority=spec.scheduling.priority,
        queue_timeout_s=queue_timeout_s(fields, "spec.scheduling.queue_timeout", spec.scheduling),
        cache_salt=cache_salt(fields, "spec.cache.salt", spec.cache),
        bypass_prefix_cache=spec.cache.bypass,
    )
    fields.check()
    return request


def _prompt(fields: Fields, spec: inference_pb2.GenerationSpec, model: ServedModel) -> Prompt:
    add_special_tokens = spec.add_special_tokens if spec.HasField("add_special_tokens") else None
    match spec.WhichOneof("prompt"):
        case "text":
            fields.require(bool(spec.text), "spec.text", "must not be empty")
            return Prompt("spec.text", text=spec.text, add_special_tokens=add_special_tokens is not False)
        case "token_ids":
            token_ids = packed(spec.token_ids.ids)
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


def _min_delta_tokens(fields: Fields, output: inference_pb2.OutputOptions) -> int:
    if not output.HasField("min_delta_tokens"):
        return 1
    fields.require(
        output.min_delta_tokens >= 1,
        "spec.output.min_delta_tokens",
        "0 is out of range; expected at least 1",
    )
    return output.min_delta_tokens


def queue_timeout_s(fields: Fields, path: str, scheduling: inference_pb2.Scheduling) -> float | None:
    """Return how long the request may wait, None without a limit. `path` is that of the field."""
    if not scheduling.HasField("queue_timeout"):
        return None
    timeout_s = scheduling.queue_timeout.seconds + scheduling.queue_timeout.nanos / 1e9
    fields.require(timeout_s > 0, path, f"{timeout_s:g} s; expected more than 0")
    return timeout_s


def cache_salt(fields: Fields, path: str, cache: inference_pb2.CacheOptions) -> str:
    """Return the salt of cached prefixes. `path` is that of the field."""
    fields.at_most(path, cache.salt, MAX_SALT_CHARACTERS, "characters")
    bad = [character for character in _NOT_IN_SALTS if character in cache.salt]
    fields.require(not bad, path, f"must not contain {' or '.join(map(repr, bad))}")
    return cache.salt
