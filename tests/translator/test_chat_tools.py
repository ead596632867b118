"""Tools and reasoning of the chat endpoint: what reaches the contract, and how answers look."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import json_format
from scripted_backend import delta, finished, plays, started

from pagewire.v1 import inference_pb2
from translator.chat_request import chat_spec, parse_chat
from translator.errors import ApiError
from translator.fields import Endpoint, parameter_of

if TYPE_CHECKING:
    import httpx
    from scripted_backend import House

USER = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "f", "description": "Does f.", "parameters": SCHEMA}}
OTHER = {"type": "function", "function": {"name": "g", "strict": True}}
CALLS = plays(
    started(),
    delta("", reasoning_text="hm"),
    delta("", tool_calls=[inference_pb2.ToolCallDelta(index=0, id="c0", name="f", arguments='{"a":')]),
    delta("", tool_calls=[inference_pb2.ToolCallDelta(index=0, arguments=" 1}")]),
    delta("", tool_calls=[inference_pb2.ToolCallDelta(index=1, id="c1", name="g")]),
    delta("", tool_calls=[inference_pb2.ToolCallDelta(index=1, arguments="{}")]),
    finished(reason=inference_pb2.FINISH_REASON_TOOL_CALLS),
)


def spec(**fields: Any) -> dict[str, Any]:
    body = json.dumps({"messages": [USER]} | fields).encode()
    return json_format.MessageToDict(chat_spec(parse_chat(body)), preserving_proto_field_name=True)


def refused(**fields: Any) -> str | None:
    with pytest.raises(ApiError) as caught:
        spec(**fields)
    assert caught.value.status == 400
    return caught.value.param


def post(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post("/v1/chat/completions", json={"messages": [USER], "tools": [TOOL, OTHER]} | fields)


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line)["choices"][0] for line in lines]


class TestRequest:
    def test_tools_keep_the_order_of_their_schemas_keys(self) -> None:
        tools = spec(tools=[TOOL, OTHER])["chat"]["tools"]
        assert tools[0]["parameters_json"] == json.dumps(SCHEMA, separators=(",", ":"))
        assert tools[0]["description"] == "Does f."
        assert tools[1] == {"name": "g", "strict": True}

    @pytest.mark.parametrize(
        ("choice", "expected"),
        [
            ("none", {"mode": "TOOL_CHOICE_MODE_NONE"}),
            ("auto", {"mode": "TOOL_CHOICE_MODE_AUTO"}),
            ("required", {"mode": "TOOL_CHOICE_MODE_REQUIRED"}),
            ({"type": "function", "function": {"name": "g"}}, {"function_name": "g"}),
        ],
    )
    def test_choices(self, choice: Any, expected: dict[str, str]) -> None:
        assert spec(tools=[TOOL, OTHER], tool_choice=choice)["chat"]["tool_choice"] == expected

    def test_only_allowed_tools_are_sent(self) -> None:
        allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}
        choice = {"type": "allowed_tools", "allowed_tools": allowed}
        chat = spec(tools=[TOOL, OTHER], tool_choice=choice)["chat"]
        assert [tool["name"] for tool in chat["tools"]] == ["g"]
        assert chat["tool_choice"] == {"mode": "TOOL_CHOICE_MODE_REQUIRED"}
        refusal = refused(tools=[TOOL], tool_choice=choice)
        assert refusal == "tool_choice.allowed_tools.tools[0].function.name"

    def test_functions_are_the_old_form_of_tools(self) -> None:
        chat = spec(functions=[TOOL["function"]], function_call={"name": "f"})["chat"]
        assert chat["tools"] == spec(tools=[TOOL])["chat"]["tools"]
        assert chat["tool_choice"] == {"function_name": "f"}
        assert chat["parallel_tool_calls"] is False

    def test_old_messages_become_calls_and_answers(self) -> None:
        call = {"name": "f", "arguments": "{}"}
        messages = [
            {"role": "assistant", "content": None, "function_call": call},
            {"role": "function", "name": "f", "content": "1"},
        ]
        first, second = spec(messages=messages)["chat"]["messages"]
        assert first == {"role": "assistant", "tool_calls": [call]}
        assert second == {"role": "tool", "name": "f", "text": "1"}

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
            ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
            ({"tools": [{"type": "function"}]}, "tools[0].function"),
            ({"tools": [TOOL], "functions": [TOOL["function"]]}, "functions"),
            ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
            ({"tools": [TOOL], "tool_choice": {"type": "custom"}}, "tool_choice.type"),
            ({"thinking_token_budget": -2}, "thinking_token_budget"),
        ],
    )
    def test_what_cannot_be_done_is_refused(self, fields: dict[str, Any], param: str) -> None:
        assert refused(**fields) == param

    def test_reasoning_is_asked_for(self) -> None:
        fields = {"include_reasoning": False, "separate_reasoning": True, "thinking_token_budget": 5}
        assert spec(**fields)["reasoning"] == {"separate": True, "exclude": True, "max_tokens": 5}
        assert "reasoning" not in spec(include_reasoning=True, thinking_token_budget=-1)

    @pytest.mark.parametrize(
        ("path", "parameter"),
        [
            ("spec.chat.tools[3].parameters_json", "tools[3].function.parameters"),
            ("spec.chat.tools[3].name", "tools[3].function.name"),
            ("spec.chat.tool_choice.function_name", "tool_choice.function.name"),
            ("spec.chat.tools", "tools"),
            ("spec.reasoning.max_tokens", "thinking_token_budget"),
        ],
    )
    def test_refusals_of_the_server_have_our_names(self, path: str, parameter: str) -> None:
        assert parameter_of(path, Endpoint.CHAT) == parameter


class TestAnswer:
    def test_whole(self, house: House, http: httpx.Client) -> None:
        house.servicer.script = CALLS
        choice = post(http).json()["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"] == {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "reasoning_content": "hm",
            "reasoning": "hm",
            "tool_calls": [
                {"id": "c0", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
                {"id": "c1", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        }

    def test_stream(self, house: House, http: httpx.Client) -> None:
        house.servicer.script = CALLS
        choices = chunks(post(http, stream=True))
        assert [choice["delta"] for choice in choices[1:]] == [
            {"reasoning_content": "hm", "reasoning": "hm"},
            {
                "tool_calls": [
                    {"index": 0, "id": "c0", "type": "function", "function": {"name": "f", "arguments": ""}}
                ]
            },
            {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": " 1}"}}]},
            {
                "tool_calls": [
                    {"index": 1, "id": "c1", "type": "function", "function": {"name": "g", "arguments": ""}}
                ]
            },
            {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
            {},
        ]
        assert [choice["finish_reason"] for choice in choices] == [None] * 7 + ["tool_calls"]

    def test_token_ids_come_once_though_a_delta_makes_several_chunks(
        self, house: House, http: httpx.Client
    ) -> None:
        call = inference_pb2.ToolCallDelta(index=0, id="c0", name="f", arguments="{}")
        house.servicer.script = plays(
            started(), delta("a", reasoning_text="b", tool_calls=[call], token_ids=[1, 2]), finished()
        )
        choices = chunks(post(http, stream=True, return_token_ids=True))
        assert [choice["token_ids"] for choice in choices if "token_ids" in choice] == [[1, 2]]
        assert len(choices) == 6

    def test_old_form(self, house: House, http: httpx.Client) -> None:
        house.servicer.script = CALLS
        old = {"tools": None, "functions": [TOOL["function"]]}
        choice = post(http, **old).json()["choices"][0]
        assert choice["finish_reason"] == "function_call"
        assert choice["message"]["function_call"] == {"name": "f", "arguments": '{"a": 1}'}
        assert "tool_calls" not in choice["message"]
        choices = chunks(post(http, stream=True, **old))
        assert choices[2]["delta"] == {"function_call": {"name": "f", "arguments": ""}}
        assert choices[3]["delta"] == {"function_call": {"arguments": '{"a":'}}
        assert choices[-1]["finish_reason"] == "function_call"
