"""Parsing: what is JSON, what is a request, and what each known field becomes."""

from __future__ import annotations

import json
from typing import Any, get_type_hints

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given
from hypothesis import strategies as st

from translator.chat_request import ChatRequest, chat_spec, parse_chat
from translator.completion_request import CompletionRequest, completion_specs, parse_completion
from translator.errors import ApiError
from translator.fields import FIELDS, Endpoint, Support, fields_of, parameter_of
from translator.json_body import MAX_DEPTH, MAX_NODES, parse_json

MESSAGES = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> ChatRequest:
    return parse_chat(json.dumps({"messages": MESSAGES} | fields).encode())


def spec_of(**fields: Any) -> dict[str, Any]:
    return dict(MessageToDict(chat_spec(chat(**fields)), preserving_proto_field_name=True))


def completion_spec(**fields: Any) -> dict[str, Any]:
    body = json.dumps({"prompt": "hi"} | fields).encode()
    (spec,) = completion_specs(parse_completion(body))
    return dict(MessageToDict(spec, preserving_proto_field_name=True))


def translate(body: bytes, endpoint: Endpoint) -> None:
    if endpoint is Endpoint.CHAT:
        chat_spec(parse_chat(body))
    else:
        completion_specs(parse_completion(body))


def refusal(body: bytes | dict[str, Any], endpoint: Endpoint = Endpoint.CHAT) -> ApiError:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ApiError) as caught:
        translate(encoded, endpoint)
    assert caught.value.status == 400
    return caught.value


class TestJson:
    @pytest.mark.parametrize(
        ("body", "says"),
        [
            (b"", "not valid JSON"),
            (b"{", "not valid JSON"),
            (b'{"a":1}x', "not valid JSON"),
            (b"{'a':1}", "not valid JSON"),
            (b'{"a":NaN}', "NaN"),
            (b'{"a":-Infinity}', "Infinity"),
            (b'{"a":1e999}', "1e999, which is out of range; expected a double"),
            (b'{"a":' + b"9" * 5000 + b"}", "out of range; expected at most 4300 digits"),
            (b'{"a":"\\ud800"}', "surrogate"),
            (b'{"\\udfff":1}', "surrogate"),
            (b'{"a":"\xff"}', "UTF-8"),
            (b'{"a":"\xed\xa0\x80"}', "UTF-8"),
            ('{"a":1}'.encode("utf-16"), "UTF-8"),
            ('{"a":1}'.encode("utf-8-sig"), "not valid JSON"),
            (b'{"a":1,"a":2}', "twice"),
            (b'{"a":{"b":1,"b":1}}', "twice"),
            (b'{"\\ud800":1,"\\ud800":1}', "twice"),
            (b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "nested"),
            (b'{"a":"\x01"}', "not valid JSON"),
        ],
    )
    def test_refuses(self, body: bytes, says: str) -> None:
        with pytest.raises(ApiError, match=says) as caught:
            parse_json(body)
        assert caught.value.status == 400

    def test_surrogate_pairs_are_characters(self) -> None:
        assert parse_json(b'"\\ud83d\\ude00"') == "\U0001f600"

    def test_depth_counts_nesting_and_not_brackets_in_strings(self) -> None:
        assert parse_json(json.dumps("[" * 10_000).encode()) == "[" * 10_000
        assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
        with pytest.raises(ApiError, match="nested"):
            parse_json(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))

    def test_structure_is_bounded_and_text_is_not(self) -> None:
        with pytest.raises(ApiError, match="arrays, objects and members"):
            parse_json(json.dumps([[]] * MAX_NODES).encode())
        with pytest.raises(ApiError, match="arrays, objects and members"):
            parse_json(json.dumps({str(number): 0 for number in range(MAX_NODES)}).encode())
        assert len(parse_json(json.dumps(list(range(2 * MAX_NODES))).encode())) == 2 * MAX_NODES
        assert parse_json(json.dumps("{[:" * MAX_NODES).encode())
        assert len(parse_json(json.dumps([[1]] * 1000).encode())) == 1000

    @pytest.mark.parametrize(
        "body",
        [
            b"[" * 2_000_000,
            b"[]" * 1_000_000,
            b"[" + b"[]," * 1_000_000 + b"[]",
            b'"' + b'\\"' * 1_000_000 + b"[" * 200,
            b'{"a":"\\ud800' + b"\\ud800" * 300_000,
            b"{" + b",".join(b'"%d":0' % index for index in range(200_000)) + b',"199999":0}',
        ],
        ids=["open", "pairs", "siblings", "quotes", "surrogates", "keys"],
    )
    @pytest.mark.timeout(20)
    def test_hostile_bodies_are_refused_in_linear_time(self, body: bytes) -> None:
        with pytest.raises(ApiError):
            parse_json(body)

    @given(st.binary(max_size=200))
    def test_any_bytes_are_parsed_or_refused(self, body: bytes) -> None:
        try:
            parse_json(body)
        except ApiError as error:
            assert error.status == 400  # noqa: PT017

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda children: st.lists(children) | st.dictionaries(st.text(), children),
            max_leaves=8,
        ),
        st.sampled_from(["messages", "stop", "logit_bias", "stream_options", "tool_choice", "prompt", "n"]),
    )
    def test_a_value_of_any_shape_for_any_field_is_taken_or_refused(self, value: Any, name: str) -> None:
        body = json.dumps({"messages": MESSAGES, "prompt": "a"} | {name: value}).encode()
        for endpoint in (Endpoint.CHAT, Endpoint.COMPLETIONS):
            try:
                translate(body, endpoint)
            except ApiError as error:
                assert error.status == 400  # noqa: PT017


class TestShape:
    @pytest.mark.parametrize("body", [b"[]", b"5", b"null", b'"x"', b"true"])
    def test_the_body_is_an_object(self, body: bytes) -> None:
        assert "object" in refusal(body).message

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({}, "messages"),
            ({"messages": []}, "messages"),
            ({"messages": "hi"}, "messages"),
            ({"messages": [5]}, "messages[0]"),
            ({"messages": [{"content": "hi"}]}, "messages[0].role"),
            ({"messages": [{"role": "", "content": "hi"}]}, "messages[0].role"),
            ({"messages": [{"role": "user"}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": None, "reasoning": ""}]}, "messages[0].content"),
            ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
            ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
            ({"messages": [*MESSAGES, {"role": "user", "content": [{"text": "a"}]}]},
             "messages[1].content[0].type"),
            ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
            ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
             "messages[0].content[0].type"),
            ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
             "messages[0].content[0].type"),
            ({"messages": MESSAGES, "temperature": "hot"}, "temperature"),
            ({"messages": MESSAGES, "temperature": True}, "temperature"),
            ({"messages": MESSAGES, "temperature": 1e300}, "temperature"),
            ({"messages": MESSAGES, "max_tokens": -1}, "max_tokens"),
            ({"messages": MESSAGES, "max_tokens": 1.5}, "max_tokens"),
            ({"messages": MESSAGES, "max_tokens": 2**32}, "max_tokens"),
            ({"messages": MESSAGES, "n": "2"}, "n"),
            ({"messages": MESSAGES, "seed": 2**63}, "seed"),
            ({"messages": MESSAGES, "top_k": 2**31}, "top_k"),
            ({"messages": MESSAGES, "stop": [1]}, "stop[0]"),
            ({"messages": MESSAGES, "stream": "yes"}, "stream"),
            ({"messages": MESSAGES, "stream": True, "stream_options": {"include_usage": 5}},
             "stream_options.include_usage"),
            ({"messages": MESSAGES, "stream_options": {"include_usage": True}}, "stream_options"),
            ({"messages": MESSAGES, "logit_bias": {"a": 1}}, "logit_bias"),
            ({"messages": MESSAGES, "logit_bias": {"-1": 1}}, "logit_bias"),
            ({"messages": MESSAGES, "logit_bias": {"4294967296": 1}}, "logit_bias"),
            ({"messages": MESSAGES, "stream": True, "stream_options": {"continuous_usage_stats": True}},
             "stream_options.continuous_usage_stats"),
            ({"messages": MESSAGES, "stream_options": {"include_usage": False}}, "stream_options"),
            ({"messages": MESSAGES, "stream_interval": -1}, "stream_interval"),
            ({"messages": MESSAGES, "cache_salt": ""}, "cache_salt"),
            ({"messages": MESSAGES, "allowed_token_ids": []}, "allowed_token_ids"),
            ({"messages": MESSAGES, "request_id": "a b"}, "request_id"),
            ({"messages": MESSAGES, "reasoning_effort": "huge"}, "reasoning_effort"),
            ({"messages": MESSAGES, "add_generation_prompt": True, "continue_final_message": True},
             "continue_final_message"),
            ({"messages": MESSAGES, "top_logprobs": 2}, "top_logprobs"),
            ({"messages": MESSAGES, "stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
            ({"messages": MESSAGES, "truncation_side": "middle"}, "truncation_side"),
            ({"messages": MESSAGES, "model": 5}, "model"),
        ],
    )  # fmt: skip
    def test_a_refused_chat_names_its_field(self, body: dict[str, Any], param: str) -> None:
        error = refusal(body)
        assert error.param == param
        assert error.message.startswith(param)

    @pytest.mark.parametrize(
        ("body", "param"),
        [
            ({}, "prompt"),
            ({"prompt": None}, "prompt"),
            ({"prompt": ""}, "prompt"),
            ({"prompt": []}, "prompt"),
            ({"prompt": [""]}, "prompt[0]"),
            ({"prompt": [[]]}, "prompt[0]"),
            ({"prompt": [1, "a"]}, "prompt"),
            ({"prompt": ["a", [1]]}, "prompt"),
            ({"prompt": [-1]}, "prompt[0]"),
            ({"prompt": [[2**32]]}, "prompt[0][0]"),
            ({"prompt": [1.5]}, "prompt[0]"),
            ({"prompt": {}}, "prompt"),
            ({"prompt": ["a"] * 1025}, "prompt"),
            ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
            ({"prompt": "a", "best_of": 2}, "best_of"),
            ({"prompt": "a", "n": 2, "best_of": 1}, "best_of"),
            ({"prompt": "a", "suffix": "b"}, "suffix"),
            ({"prompt": "a", "logprobs": True}, "logprobs"),
            ({"prompt": "a", "logprobs": -1}, "logprobs"),
            ({"prompt": "a", "prompt_embeds": "AAAA"}, "prompt_embeds"),
            ({"prompt": "a", "vllm_xargs": {"a": 1}}, "vllm_xargs"),
        ],
    )
    def test_a_refused_completion_names_its_field(self, body: dict[str, Any], param: str) -> None:
        assert refusal(body, Endpoint.COMPLETIONS).param == param


class TestFields:
    """The table of `fields.py` is what the code does."""

    @pytest.mark.parametrize(
        ("request_type", "endpoint"),
        [(ChatRequest, Endpoint.CHAT), (CompletionRequest, Endpoint.COMPLETIONS)],
    )
    def test_the_table_lists_the_fields_of_the_types(self, request_type: type, endpoint: Endpoint) -> None:
        honoured = {field.name for field in fields_of(endpoint, Support.HONOURED)}
        assert honoured == set(get_type_hints(request_type))

    def test_a_field_is_listed_once_for_a_route(self) -> None:
        for endpoint in (Endpoint.CHAT, Endpoint.COMPLETIONS):
            names = [field.name for field in FIELDS if field.endpoint & endpoint]
            assert len(names) == len(set(names))

    @pytest.mark.parametrize("field", list(fields_of(Endpoint.CHAT, Support.REFUSED)), ids=lambda f: f.name)
    def test_a_refused_field_is_named_unless_it_asks_for_nothing(self, field: Any) -> None:
        error = refusal({"messages": MESSAGES, field.name: {"asks": "for something"}})
        assert (error.param, error.code) == (field.name, "unsupported_parameter")
        for nothing in (None, "", [], {}, *field.neutral):
            chat(**{field.name: nothing})

    @pytest.mark.parametrize("field", list(fields_of(Endpoint.CHAT, Support.IGNORED)), ids=lambda f: f.name)
    def test_an_ignored_field_changes_nothing(self, field: Any) -> None:
        assert spec_of(**{field.name: {"any": ["value"]}}) == spec_of()

    def test_unknown_fields_are_ignored_and_null_is_absent(self) -> None:
        honoured = {field.name: None for field in fields_of(Endpoint.CHAT, Support.HONOURED)}
        del honoured["messages"]
        assert spec_of(**honoured, never_heard_of={"x": 1}) == spec_of()

    @pytest.mark.parametrize(
        ("fields", "path", "value"),
        [
            ({"temperature": 0}, "sampling.temperature", 0.0),
            ({"top_p": 0.5}, "sampling.top_p", 0.5),
            ({"top_k": -1}, "sampling.top_k", -1),
            ({"min_p": 0.25}, "sampling.min_p", 0.25),
            ({"seed": -5}, "sampling.seed", "-5"),
            ({"n": 2}, "sampling.n", 2),
            ({"frequency_penalty": -2}, "sampling.frequency_penalty", -2.0),
            ({"presence_penalty": 2}, "sampling.presence_penalty", 2.0),
            ({"repetition_penalty": 1.5}, "sampling.repetition_penalty", 1.5),
            ({"logit_bias": {"7": 1e300, "8": -3}}, "sampling.logit_bias", {"7": 100.0, "8": -3.0}),
            ({"allowed_token_ids": [1]}, "sampling.allowed_token_ids", [1]),
            ({"bad_words": ["x"]}, "sampling.bad_words", ["x"]),
            ({"max_tokens": 5}, "stopping.max_tokens", 5),
            ({"max_completion_tokens": 6}, "stopping.max_tokens", 6),
            ({"max_tokens": 5, "max_completion_tokens": 6}, "stopping.max_tokens", 6),
            ({"min_tokens": 3}, "stopping.min_tokens", 3),
            ({"stop": "a"}, "stopping.stop", ["a"]),
            ({"stop": ["a", "b"]}, "stopping.stop", ["a", "b"]),
            ({"stop_token_ids": [9]}, "stopping.stop_token_ids", [9]),
            ({"ignore_eos": True}, "stopping.ignore_eos", True),
            ({"include_stop_str_in_output": True}, "stopping.include_stop_text", True),
            ({"logprobs": True}, "output.logprobs", 0),
            ({"logprobs": True, "top_logprobs": 3}, "output.logprobs", 3),
            ({"prompt_logprobs": 1}, "output.prompt_logprobs", 1),
            ({"skip_special_tokens": False}, "output.skip_special_tokens", False),
            ({"return_token_ids": True}, "output.token_ids", True),
            ({"priority": -3}, "scheduling.priority", -3),
            ({"cache_salt": "s"}, "cache.salt", "s"),
            ({"model": "m"}, "model", "m"),
            ({"add_special_tokens": True}, "add_special_tokens", True),
            ({"truncate_prompt_tokens": -1}, "truncate_prompt_tokens", -1),
            ({"truncation_side": "right"}, "truncation_side", "TRUNCATION_SIDE_RIGHT"),
            ({"add_generation_prompt": False}, "chat.add_generation_prompt", False),
            ({"continue_final_message": True}, "chat.add_generation_prompt", False),
            ({"chat_template_kwargs": {"a": [1]}}, "chat.template_arguments_json", '{"a":[1]}'),
            (
                {"reasoning_effort": "low"},
                "chat.template_arguments_json",
                '{"reasoning_effort":"low","enable_thinking":true}',
            ),
            (
                {"reasoning_effort": "none"},
                "chat.template_arguments_json",
                '{"reasoning_effort":"none","enable_thinking":false}',
            ),
            (
                {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
                "chat.template_arguments_json",
                '{"enable_thinking":true,"reasoning_effort":"none"}',
            ),
            ({"chat_template": "{{ x }}"}, "chat.template", "{{ x }}"),
            ({"return_prompt_text": True}, "output.prompt_text", True),
            ({"stream_interval": 4}, "output.min_delta_tokens", 4),
            ({"logprob_token_ids": [3]}, "output.logprob_token_ids", [3]),
            ({"use_beam_search": True}, "sampling.beam_search", {}),
            (
                {"use_beam_search": True, "length_penalty": 0.5},
                "sampling.beam_search",
                {"length_penalty": 0.5},
            ),
            ({"response_format": {"type": "json_object"}}, "constraint.json_object", True),
        ],
    )
    def test_an_honoured_field_reaches_the_contract(
        self, fields: dict[str, Any], path: str, value: object
    ) -> None:
        found: Any = spec_of(**fields)
        for name in path.split("."):
            found = found[name]
        assert found == value

    def test_messages_reach_the_contract(self) -> None:
        messages = [
            {"role": "developer", "content": [{"type": "text", "text": "be brief"}], "name": "ops"},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "hm",
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "content": "4", "tool_call_id": "c"},
        ]
        assert spec_of(messages=messages)["chat"]["messages"] == [
            {"role": "developer", "parts": {"parts": [{"text": "be brief"}]}, "name": "ops"},
            {
                "role": "assistant",
                "reasoning_text": "hm",
                "tool_calls": [{"id": "c", "name": "f", "arguments": "{}"}],
            },
            {"role": "tool", "text": "4", "tool_call_id": "c"},
        ]

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ({"refusal": "no"}, "no"),
            ({"reasoning_content": "hm"}, ""),
            ({"reasoning": "hm", "refusal": None}, ""),
            ({"tool_calls": []}, ""),
        ],
    )
    def test_answers_without_text_may_be_sent_back(self, given: dict[str, Any], text: str) -> None:
        answer = {"role": "assistant", "content": None, **given}
        message = spec_of(messages=[*MESSAGES, answer, *MESSAGES])["chat"]["messages"][1]
        assert message["text"] == text

    def test_prompts_reach_the_contract(self) -> None:
        assert completion_spec()["stopping"]["max_tokens"] == 16
        assert completion_spec(prompt=[1, 2])["token_ids"] == {"ids": [1, 2]}
        body = json.dumps({"prompt": [[1], [2, 3]]}).encode()
        assert [list(spec.token_ids.ids) for spec in completion_specs(parse_completion(body))] == [
            [1],
            [2, 3],
        ]

    def test_all_bad_keys_of_a_bias_are_listed(self) -> None:
        message = refusal({"messages": MESSAGES, "logit_bias": {"bad1": 1, "7": 1, "bad2": 1}}).message
        assert message == "logit_bias: expected token ids as keys, got 'bad1', 'bad2'."

    @pytest.mark.parametrize(
        ("fields", "role", "echoed"),
        [
            ({}, "assistant", ""),
            ({"echo": True}, "assistant", ""),
            ({"continue_final_message": True}, "user", ""),
            ({"continue_final_message": True, "echo": True}, "user", "hi"),
            ({"add_generation_prompt": False, "echo": True}, "user", "hi"),
            ({"messages": [{"role": "assistant", "content": [{"type": "text", "text": "so"}]}], "echo": True},
             "assistant", "so"),
        ],
    )  # fmt: skip
    def test_who_answers_and_what_is_echoed(self, fields: dict[str, Any], role: str, echoed: str) -> None:
        request = chat(**fields)
        assert (request.response_role, request.echoed_text) == (role, echoed)

    def test_scoring_a_prompt_asks_for_one_token(self) -> None:
        spec = completion_spec(max_tokens=0, echo=True, logprobs=1)
        assert spec["stopping"]["max_tokens"] == 1
        assert spec["output"] == {"logprobs": 1, "prompt_logprobs": 1, "prompt_text": True}

    @pytest.mark.parametrize(
        "fields",
        [
            {"response_format": {"type": "text"}},
            {"logit_bias": {}},
            {"stop": None, "seed": None, "user": None},
            {"seed": -1, "use_beam_search": False, "length_penalty": 2},
            {"stream_options": {}, "regex": "", "grammar": "", "ebnf": None, "guided_json": None},
            {"stream_options": {"include_usage": None, "continuous_usage_stats": None}},
            {
                "logprobs": False,
                "top_logprobs": 0,
                "no_stop_trim": False,
                "stream_reasoning": True,
                "return_hidden_states": False,
                "session_params": None,
            },
            {"typical_p": 1.0, "mirostat": 0, "thinking_token_budget": -1, "routed_experts_prompt_start": 0},
        ],
    )
    def test_what_clients_send_out_of_habit_is_taken(self, fields: dict[str, Any]) -> None:
        assert spec_of(**fields) == spec_of()


@pytest.mark.parametrize(
    ("path", "endpoint", "parameter"),
    [
        ("spec.sampling.temperature", Endpoint.CHAT, "temperature"),
        ("spec.stopping.stop[2]", Endpoint.CHAT, "stop[2]"),
        ("spec.stopping.max_tokens", Endpoint.COMPLETIONS, "max_tokens"),
        ("spec.output.logprobs", Endpoint.CHAT, "top_logprobs"),
        ("spec.output.logprobs", Endpoint.COMPLETIONS, "logprobs"),
        ("spec.chat", Endpoint.CHAT, "messages"),
        ("spec.chat.messages[3].role", Endpoint.CHAT, "messages[3].role"),
        ("spec.chat.messages[3].text", Endpoint.CHAT, "messages[3].content"),
        ("spec.chat.messages[3].parts[1].image_url", Endpoint.CHAT, "messages[3].content[1].image_url"),
        ("spec.chat.template_arguments_json", Endpoint.CHAT, "chat_template_kwargs"),
        ("spec.text", Endpoint.COMPLETIONS, "prompt"),
        ("spec.token_ids.ids[4]", Endpoint.COMPLETIONS, "prompt[4]"),
        ("spec.cache.salt", Endpoint.CHAT, "cache_salt"),
        ("spec.model", Endpoint.CHAT, "model"),
        ("spec.unheard.of", Endpoint.CHAT, "unheard.of"),
        ("", Endpoint.CHAT, ""),
    ],
)
def test_paths_of_the_contract_become_parameters(path: str, endpoint: Endpoint, parameter: str) -> None:
    assert parameter_of(path, endpoint) == parameter


@pytest.mark.parametrize(
    ("path", "given", "parameter"),
    [
        ("spec.stopping.max_tokens", {"max_tokens"}, "max_tokens"),
        ("spec.stopping.max_tokens", {"max_completion_tokens"}, "max_completion_tokens"),
        ("spec.output.logprobs", {"logprobs", "top_logprobs"}, "top_logprobs"),
        ("spec.constraint.json_schema", {"guided_json"}, "guided_json"),
        ("spec.constraint.json_schema", {"response_format"}, "response_format"),
        ("spec.constraint.regex", {"regex"}, "regex"),
        ("spec.constraint.choices.texts[3]", {"structured_outputs"}, "structured_outputs"),
    ],
)
def test_the_field_that_was_given_is_named(path: str, given: set[str], parameter: str) -> None:
    assert parameter_of(path, Endpoint.CHAT, given) == parameter
