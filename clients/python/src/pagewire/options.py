"""The keyword options of a generation, and where each stands in the contract."""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING, TypedDict

from pagewire.chat import refuse, to_chat, to_tool_choice
from pagewire.v1 import inference_pb2, models_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.message import Message

    from pagewire.errors import InvalidRequestError
    from pagewire.v1 import chat_pb2


class Options(TypedDict, total=False):
    """Options of generate, stream and chat. What is absent takes the model's default.

    Ranges and defaults stand at the fields of the same names in `inference.proto`.
    """

    model: str
    adapter: str
    # sampling
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    logit_bias: Mapping[int, float]
    allowed_token_ids: Sequence[int]
    bad_words: Sequence[str]
    n: int
    # stopping
    max_tokens: int
    min_tokens: int
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    include_stop_text: bool
    # output
    token_ids: bool
    prompt_token_ids: bool
    prompt_text: bool
    logprobs: int
    prompt_logprobs: int
    skip_special_tokens: bool
    # what the output must look like: one of these
    json_object: bool
    json_schema: str | Mapping[str, object]
    regex: str
    choices: Sequence[str]
    grammar: str
    structural_tag: str
    # chats
    tools: Sequence[Mapping[str, object] | chat_pb2.Tool]
    tool_choice: str | Mapping[str, object]
    parallel_tool_calls: bool
    template_arguments: Mapping[str, object]
    add_generation_prompt: bool
    continue_final_message: bool
    # prompt, queue and cache
    add_special_tokens: bool
    truncate_prompt_tokens: int
    priority: int
    queue_timeout_s: float
    cache_salt: str
    bypass_prefix_cache: bool


_SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty",
    "seed", "logit_bias", "allowed_token_ids", "bad_words", "n",
)  # fmt: skip
_STOPPING = ("max_tokens", "min_tokens", "stop", "stop_token_ids", "ignore_eos", "include_stop_text")
_OUTPUT = (
    "token_ids", "prompt_token_ids", "prompt_text", "logprobs", "prompt_logprobs", "skip_special_tokens",
)  # fmt: skip
_CONSTRAINT = ("json_object", "json_schema", "regex", "choices", "grammar", "structural_tag")
_CHAT = (
    "tools", "tool_choice", "parallel_tool_calls", "template_arguments", "add_generation_prompt",
    "continue_final_message",
)  # fmt: skip

# option -> path of its field in GenerationSpec
PATHS: dict[str, str] = {
    **{name: name for name in ("model", "adapter", "add_special_tokens", "truncate_prompt_tokens")},
    **{name: f"sampling.{name}" for name in _SAMPLING},
    **{name: f"stopping.{name}" for name in _STOPPING},
    **{name: f"output.{name}" for name in _OUTPUT},
    **{name: f"constraint.{name}" for name in _CONSTRAINT},
    **{name: f"chat.{name}" for name in _CHAT},
    "choices": "constraint.choices.texts",
    "template_arguments": "chat.template_arguments_json",
    "priority": "scheduling.priority",
    "queue_timeout_s": "scheduling.queue_timeout",
    "cache_salt": "cache.salt",
    "bypass_prefix_cache": "cache.bypass",
}


def build_spec(
    prompt: str | Sequence[int] | None,
    messages: Sequence[Mapping[str, object] | chat_pb2.Message] | None,
    spec: inference_pb2.GenerationSpec | None,
    options: Options,
) -> inference_pb2.GenerationSpec:
    """Return the request: a copy of `spec` with prompt or messages and the options on top.

    Raises:
        InvalidRequestError: prompt and messages are both given or both absent, an option is not
            known, or a value has the wrong type.
    """
    built = inference_pb2.GenerationSpec()
    if spec is not None:
        built.CopyFrom(spec)
    if prompt is not None and messages is not None:
        raise refuse("prompt", "expected a prompt or messages, got both")
    if prompt is None and messages is None and built.WhichOneof("prompt") is None:
        raise refuse("prompt", "expected a prompt or messages, got neither")
    if isinstance(prompt, str):
        built.text = prompt
    elif prompt is not None:
        built.token_ids.Clear()
        built.token_ids.SetInParent()
        try:
            built.token_ids.ids.extend(prompt)
        except (TypeError, ValueError) as error:
            raise _misfit("prompt", prompt, error) from error
    elif messages is not None:
        built.chat.CopyFrom(to_chat(messages))
    for name, value in options.items():
        _apply(built, name, value)
    return built


def build_tokenize_request(
    text: str | None,
    messages: Sequence[Mapping[str, object] | chat_pb2.Message] | None,
    model: str,
    add_special_tokens: bool | None,
) -> models_pb2.TokenizeRequest:
    """Return the request to encode a text or a chat.

    Raises:
        InvalidRequestError: both are given or both absent, or a value has the wrong type.
    """
    if (text is None) == (messages is None):
        raise refuse("text", "expected either text or messages")
    request = models_pb2.TokenizeRequest(model=model, add_special_tokens=add_special_tokens)
    if text is not None:
        request.text = text
    elif messages is not None:
        request.chat.CopyFrom(to_chat(messages))
    return request


def _apply(spec: inference_pb2.GenerationSpec, name: str, value: object) -> None:
    path = PATHS.get(name)
    if path is None:
        raise TypeError(f"{name} is not an option of a generation; see pagewire.options.Options")
    if value is None:
        return
    if path.startswith("chat.") and spec.WhichOneof("prompt") != "chat":
        raise refuse(name, "applies to messages only")
    if name in _CONSTRAINT and spec.constraint.WhichOneof("kind") is not None:
        raise refuse(name, f"{spec.constraint.WhichOneof('kind')} is given too; only one can be")
    _assign(spec, path, _to_wire(name, value), name)


def _to_wire(name: str, value: object) -> object:
    """Turn an option's value into that of its field, where they differ."""
    match name, value:
        case "stop", str():
            return [value]
        case "json_schema" | "template_arguments", dict():
            return json.dumps(value)
        case "queue_timeout_s", int() | float():
            return datetime.timedelta(seconds=value)
        case "tools", list() | tuple():
            return to_chat((), value).tools
        case "tool_choice", str() | dict():
            return to_tool_choice(value)
        case _:
            return value


def _misfit(name: str, value: object, error: Exception) -> InvalidRequestError:
    return refuse(name, f"{type(value).__name__} {value!r:.80} does not fit the field: {error}")


def _assign(spec: Message, path: str, value: object, name: str) -> None:
    """Set the field at `path`; protobuf checks type and range."""
    *parents, field = path.split(".")
    target = spec
    for parent in parents:
        target = getattr(target, parent)
    try:
        given = type(target)(**{field: value})
    except (TypeError, ValueError) as error:
        raise _misfit(name, value, error) from error
    target.ClearField(field)
    target.MergeFrom(given)
