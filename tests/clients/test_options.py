"""Options and messages become the fields of the contract."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

import pagewire
from pagewire.options import PATHS, Options, build_spec
from pagewire.v1 import chat_pb2, inference_pb2

MESSAGES = [{"role": "user", "content": "hi"}]
TOOL = {
    "type": "function",
    "function": {"name": "look_up", "description": "d", "parameters": {"b": 1, "a": 2}},
}

EXAMPLES: dict[str, Any] = {
    "model": "m", "adapter": "a", "temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.25,
    "repetition_penalty": 1.5, "presence_penalty": 0.5, "frequency_penalty": -0.5, "seed": -1,
    "logit_bias": {5: -100.0}, "allowed_token_ids": [1], "bad_words": ["x"], "n": 2, "max_tokens": 4,
    "min_tokens": 0, "stop": ["x"], "stop_token_ids": [7], "ignore_eos": True, "include_stop_text": True,
    "token_ids": True, "prompt_token_ids": True, "prompt_text": True, "logprobs": 0, "prompt_logprobs": 5,
    "skip_special_tokens": False, "json_object": True, "json_schema": "{}", "regex": "a+",
    "choices": ["a", "b"], "grammar": "start: /a/", "structural_tag": "{}", "tools": [TOOL],
    "tool_choice": "auto", "parallel_tool_calls": False, "template_arguments": {"a": 1},
    "add_generation_prompt": False, "continue_final_message": True, "add_special_tokens": False,
    "truncate_prompt_tokens": -1, "priority": -3, "queue_timeout_s": 1.5, "cache_salt": "s",
    "bypass_prefix_cache": True,
}  # fmt: skip


def build(**options: Any) -> inference_pb2.GenerationSpec:
    return build_spec(None, MESSAGES, None, cast("Options", options))


def value_at(spec: inference_pb2.GenerationSpec, path: str) -> tuple[bool, Any]:
    *parents, field = path.split(".")
    message: Any = spec
    for parent in parents:
        message = getattr(message, parent)
    return any(descriptor.name == field for descriptor, _ in message.ListFields()), getattr(message, field)


def test_every_option_has_a_path_and_an_example() -> None:
    assert set(Options.__annotations__) == set(PATHS) == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_option_sets_its_field_alone(name: str) -> None:
    spec = build(**{name: EXAMPLES[name]})
    is_set, value = value_at(spec, PATHS[name])
    assert is_set
    assert spec != build()
    if isinstance(EXAMPLES[name], bool | int | float | str) and name not in (
        "queue_timeout_s",
        "tool_choice",
    ):
        assert value == EXAMPLES[name]


def test_absent_and_none_are_the_same() -> None:
    assert build(temperature=None, stop=None, tools=None) == build()


def test_one_stop_text_is_a_list_of_one() -> None:
    assert build(stop="END").stopping.stop == ["END"]


def test_values_that_are_converted() -> None:
    spec = build(queue_timeout_s=1.5, json_schema={"type": "object"}, template_arguments={"b": 1, "a": 2})
    assert spec.scheduling.queue_timeout.ToTimedelta().total_seconds() == 1.5
    assert json.loads(spec.constraint.json_schema) == {"type": "object"}
    assert spec.chat.template_arguments_json == '{"b": 1, "a": 2}'
    choice = build(tools=[TOOL], tool_choice={"type": "function", "function": {"name": "look_up"}})
    assert choice.chat.tool_choice.function_name == "look_up"
    assert choice.chat.tools[0].parameters_json == '{"b": 1, "a": 2}'


def test_options_go_on_top_of_a_spec_and_leave_it_alone() -> None:
    base = inference_pb2.GenerationSpec(text="a", stopping=inference_pb2.Stopping(stop=["x"], max_tokens=9))
    spec = build_spec(None, None, base, {"stop": ["y"]})
    assert spec.text == "a"
    assert spec.stopping == inference_pb2.Stopping(stop=["y"], max_tokens=9)
    assert base.stopping.stop == ["x"]
    assert build_spec([1], None, base, {}).WhichOneof("prompt") == "token_ids"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"stop": [1]}, "stop"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"regex": "a", "grammar": "b"}, "grammar"),
    ],
)
def test_a_value_that_cannot_be_sent_is_refused_by_name(options: dict[str, Any], field: str) -> None:
    with pytest.raises(pagewire.InvalidRequestError) as caught:
        build(**options)
    assert caught.value.violations[0].field == field


@pytest.mark.parametrize("token_ids", [[1, -1], [1, 2**32], [1, "a"], [1, 1.5]])
def test_a_prompt_holds_token_ids_alone(token_ids: list[Any]) -> None:
    with pytest.raises(pagewire.InvalidRequestError, match=r"list .* does not fit the field") as caught:
        build_spec(token_ids, None, None, {})
    assert caught.value.violations[0].field == "prompt"


def test_an_empty_prompt_is_left_to_the_server() -> None:
    assert build_spec([], None, None, {}).WhichOneof("prompt") == "token_ids"


def test_prompt_and_messages_exclude_each_other() -> None:
    with pytest.raises(pagewire.InvalidRequestError, match="got both"):
        build_spec("a", MESSAGES, None, {})
    with pytest.raises(pagewire.InvalidRequestError, match="got neither"):
        build_spec(None, None, None, {})
    with pytest.raises(pagewire.InvalidRequestError, match="applies to messages only"):
        build_spec("a", None, None, {"tools": [TOOL]})


def test_a_misspelt_option_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match="temprature"):
        build(temprature=1)


def test_messages_in_openais_form() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "u"}}]
    chat = build_spec(
        None,
        [
            {"role": "user", "content": parts, "name": "Ann"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "42", "tool_call_id": "c1"},
            chat_pb2.Message(role="user", text="and now?"),
        ],
        None,
        {},
    ).chat
    assert [part.WhichOneof("kind") for part in chat.messages[0].parts.parts] == ["text", "image_url"]
    assert chat.messages[0].name == "Ann"
    assert chat.messages[1].WhichOneof("content") is None
    assert chat.messages[1].tool_calls[0] == chat_pb2.ToolCall(id="c1", name="f", arguments='{"a": 1}')
    assert chat.messages[2].tool_call_id == "c1"
    assert chat.messages[3].text == "and now?"


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"content": "hi"}, "messages[0].role"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": ["hi"]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "audio"}]}, "messages[0].content[0].type"),
        ({"role": "assistant", "tool_calls": "f"}, "messages[0].tool_calls"),
        ({"role": "assistant", "tool_calls": [{"id": "x"}]}, "messages[0].tool_calls[0].function"),
    ],
)
def test_a_malformed_message_is_refused_by_path(message: dict[str, object], field: str) -> None:
    with pytest.raises(pagewire.InvalidRequestError) as caught:
        build_spec(None, [message], None, {})
    assert caught.value.violations[0].field == field
