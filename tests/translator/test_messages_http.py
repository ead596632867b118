"""POST /v1/messages over HTTP: what reaches the contract, and what comes back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest
from scripted_backend import (
    HELLO,
    MODEL,
    delta,
    fails,
    finished,
    plays,
    reason,
    refuses,
    retry_in,
    serving,
    started,
)

from pagewire.v1 import chat_pb2, inference_pb2

if TYPE_CHECKING:
    from scripted_backend import Event, House

PATH = "/v1/messages"
MESSAGES = [{"role": "user", "content": "hi"}]
BODY: dict[str, Any] = {"model": MODEL, "max_tokens": 20, "messages": MESSAGES}

WEATHER = {
    "name": "get_weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def call(index: int, arguments: str, name: str = "") -> Event:
    fragment = inference_pb2.ToolCallDelta(
        index=index, id=f"call_{index}" if name else "", name=name, arguments=arguments
    )
    return delta("", tool_calls=[fragment])


def reasons(text: str) -> Event:
    return delta("", reasoning_text=text)


THINKS_AND_CALLS = plays(
    started(),
    reasons("Let me "),
    reasons("see."),
    delta("One moment"),
    delta("."),
    call(0, "", "get_weather"),
    call(0, '{"city":'),
    call(0, '"Oslo"}'),
    call(1, '{"city":"Rome"}', "get_weather"),
    finished(reason=inference_pb2.FINISH_REASON_TOOL_CALLS),
)

GOLDEN = Path(__file__).parent / "golden" / "messages.sse"


def test_text(http: httpx.Client) -> None:
    response = http.post(PATH, json=BODY, headers={"x-request-id": "mine"})
    assert response.status_code == 200
    assert response.headers["request-id"] == response.headers["x-request-id"] == "mine"
    assert response.json() == {
        "id": "msg_mine",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 7,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 2,
            "output_tokens_details": {"thinking_tokens": 0},
        },
    }


def test_a_stream_is_as_recorded(http: httpx.Client, house: House) -> None:
    house.servicer.script = THINKS_AND_CALLS
    response = http.post(PATH, json=BODY | {"stream": True}, headers={"x-request-id": "mine"})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.text == GOLDEN.read_text()


def test_the_whole_answer_is_the_fold_of_the_stream(http: httpx.Client, house: House) -> None:
    house.servicer.script = THINKS_AND_CALLS
    message = http.post(PATH, json=BODY).json()
    assert message["content"] == [
        {"type": "thinking", "thinking": "Let me see.", "signature": ""},
        {"type": "text", "text": "One moment."},
        {"type": "tool_use", "id": "call_0", "name": "get_weather", "input": {"city": "Oslo"}},
        {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Rome"}},
    ]
    assert message["stop_reason"] == "tool_use"


def test_a_forced_call_stops_for_its_result(http: httpx.Client, house: House) -> None:
    house.servicer.script = plays(started(), call(0, "{}", "get_weather"), finished())
    assert http.post(PATH, json=BODY).json()["stop_reason"] == "tool_use"
    assert '"stop_reason":"tool_use"' in http.post(PATH, json=BODY | {"stream": True}).text


def test_a_call_that_was_cut_keeps_its_text(http: httpx.Client, house: House) -> None:
    length = inference_pb2.FINISH_REASON_LENGTH
    house.servicer.script = plays(started(), call(0, '{"city":"Os', "get_weather"), finished(reason=length))
    message = http.post(PATH, json=BODY).json()
    assert message["content"][0]["input"] == {"INVALID_JSON": '{"city":"Os'}
    assert message["stop_reason"] == "max_tokens"


@pytest.mark.parametrize(
    "arguments",
    [
        '{"s":"\\ud83d"}',
        '{"\\udc00":1}',
        '{"a":' * 1200 + "1" + "}" * 1200,
        '{"a":1e999}',
        '{"a":NaN}',
        '{"a":1,"a":2}',
    ],
    ids=["half", "half-name", "deep", "large", "nan", "twice"],
)
def test_arguments_that_are_no_json_keep_their_text(http: httpx.Client, house: House, arguments: str) -> None:
    house.servicer.script = plays(started(), call(0, arguments, "get_weather"), finished())
    response = http.post(PATH, json=BODY)
    assert response.status_code == 200
    assert response.json()["content"][0]["input"] == {"INVALID_JSON": arguments}


@pytest.mark.parametrize(
    "arguments",
    [
        '{"s":"\\ud83d\\ude00"}',
        '{"a":1180591620717411303424}',
        '{"a":1.5e300}',
        '{"a":' * 100 + "1" + "}" * 100,
    ],
)
def test_arguments_arrive_as_they_are(http: httpx.Client, house: House, arguments: str) -> None:
    house.servicer.script = plays(started(), call(0, arguments, "get_weather"), finished())
    assert http.post(PATH, json=BODY).json()["content"][0]["input"] == json.loads(arguments)


def test_stop_reasons(http: httpx.Client, house: House) -> None:
    def stop(max_tokens: int = 0, **end: Any) -> tuple[str, str | None]:
        ends = [inference_pb2.ChoiceEnd(**end)]
        last = inference_pb2.StreamGenerateResponse(finished=inference_pb2.Finished(choices=ends))
        house.servicer.script = plays(started(max_tokens=max_tokens), last)
        message = http.post(PATH, json=BODY).json()
        assert message["content"] == []
        return message["stop_reason"], message["stop_sequence"]

    stopped, length = inference_pb2.FINISH_REASON_STOP, inference_pb2.FINISH_REASON_LENGTH
    assert stop(finish_reason=stopped) == ("end_turn", None)
    assert stop(finish_reason=stopped, stop_token_id=3) == ("end_turn", None)
    assert stop(finish_reason=stopped, stop_text="END") == ("stop_sequence", "END")
    assert stop(20, finish_reason=length) == ("max_tokens", None)
    assert stop(5, finish_reason=length) == ("model_context_window_exceeded", None)


def test_cached_tokens_are_split_off_where_the_request_marks_a_prefix(http: httpx.Client) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    marked: list[dict[str, Any]] = [
        mark,
        {"system": [{"type": "text", "text": "a", **mark}]},
        {"tools": [WEATHER | mark]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", **mark}]}]},
    ]
    for fields in marked:
        usage = http.post(PATH, json=BODY | fields).json()["usage"]
        assert (usage["input_tokens"], usage["cache_read_input_tokens"]) == (5, 2)


def test_the_options_reach_the_contract(http: httpx.Client, house: House) -> None:
    schema = {"type": "object"}
    options = {
        "system": "Be brief.",
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "stop_sequences": ["END"],
        "thinking": {"type": "enabled", "budget_tokens": 16},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": schema}},
        "metadata": {"user_id": "u"},
        "service_tier": "auto",
    }
    assert http.post(PATH, json=BODY | options).status_code == 200
    (spec,) = house.servicer.specs
    expected = inference_pb2.GenerationSpec(model=MODEL)
    expected.sampling.temperature = 0.5
    expected.sampling.top_p = 0.9
    expected.sampling.top_k = 3
    expected.stopping.max_tokens = 20
    expected.stopping.stop.append("END")
    expected.chat.messages.add(role="system", text="Be brief.")
    expected.chat.messages.add(role="user", text="hi")
    expected.chat.template_arguments_json = '{"enable_thinking":true,"reasoning_effort":"low"}'
    expected.reasoning.max_tokens = 16
    expected.reasoning.exclude = False
    expected.constraint.json_schema = '{"type":"object"}'
    assert spec == expected


@pytest.mark.parametrize(
    ("choice", "mode", "parallel"),
    [
        ({"type": "auto"}, chat_pb2.TOOL_CHOICE_MODE_AUTO, None),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            chat_pb2.TOOL_CHOICE_MODE_AUTO,
            False,
        ),
        ({"type": "any"}, chat_pb2.TOOL_CHOICE_MODE_REQUIRED, None),
        ({"type": "none"}, chat_pb2.TOOL_CHOICE_MODE_NONE, None),
    ],
)
def test_tools_reach_the_contract(
    choice: dict[str, Any], mode: int, parallel: bool | None, http: httpx.Client, house: House
) -> None:
    assert http.post(PATH, json=BODY | {"tools": [WEATHER], "tool_choice": choice}).status_code == 200
    chat = house.servicer.specs[0].chat
    assert [(tool.name, tool.description) for tool in chat.tools] == [("get_weather", "Tells the weather.")]
    assert json.loads(chat.tools[0].parameters_json) == WEATHER["input_schema"]
    assert chat.tool_choice.mode == mode
    assert (chat.parallel_tool_calls if chat.HasField("parallel_tool_calls") else None) is parallel


def test_a_named_tool_reaches_the_contract(http: httpx.Client, house: House) -> None:
    body = BODY | {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "get_weather"}}
    assert http.post(PATH, json=body).status_code == 200
    assert house.servicer.specs[0].chat.tool_choice.function_name == "get_weather"


def test_a_round_of_tools_reaches_the_contract(http: httpx.Client, house: House) -> None:
    conversation = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Ask.", "signature": "s"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "One moment."},
                {"type": "tool_use", "id": "a", "name": "get_weather", "input": {"city": "Oslo"}},
                {"type": "tool_use", "id": "b", "name": "get_weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "rain"},
                {
                    "type": "tool_result",
                    "tool_use_id": "b",
                    "content": [{"type": "text", "text": "no city"}],
                    "is_error": True,
                },
                {"type": "text", "text": "Well?"},
            ],
        },
        {"role": "user", "content": "Say it in French."},
    ]
    assert http.post(PATH, json=BODY | {"messages": conversation}).status_code == 200
    expected = chat_pb2.Chat()
    expected.messages.add(role="user", text="Weather?")
    answer = expected.messages.add(role="assistant", text="One moment.", reasoning_text="Ask.")
    answer.tool_calls.add(id="a", name="get_weather", arguments='{"city":"Oslo"}')
    answer.tool_calls.add(id="b", name="get_weather", arguments="{}")
    expected.messages.add(role="tool", tool_call_id="a", text="rain")
    expected.messages.add(role="tool", tool_call_id="b", text="Error: no city")
    last = expected.messages.add(role="user")
    last.parts.parts.add(text="Well?")
    last.parts.parts.add(text="Say it in French.")
    assert house.servicer.specs[0].chat == expected


def test_an_answer_that_was_begun_is_gone_on_with(http: httpx.Client, house: House) -> None:
    conversation = [*MESSAGES, {"role": "assistant", "content": "The best is ("}]
    assert http.post(PATH, json=BODY | {"messages": conversation}).status_code == 200
    chat = house.servicer.specs[0].chat
    assert chat.continue_final_message
    assert not chat.add_generation_prompt
    assert chat.messages[-1].text == "The best is ("


def test_tokens_are_counted(http: httpx.Client, house: House) -> None:
    body = {"messages": [*MESSAGES, {"role": "assistant", "content": "a"}], "system": "s", "tools": [WEATHER]}
    assert http.post(f"{PATH}/count_tokens", json=body).json() == {"input_tokens": 3}
    http.post(PATH, json=body | {"max_tokens": 5})
    assert house.servicer.tokenize_requests[0].chat == house.servicer.specs[0].chat


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "bard", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            'messages[0].content[0].type: "image" is not known',
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a"}]}]},
            "messages[0].content[0].type",
        ),
        (
            {
                "messages": [
                    *MESSAGES,
                    {
                        "role": "assistant",
                        "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}],
                    },
                ]
            },
            "messages[1].content",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0]"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"mcp_servers": [{"url": "u"}]}, "mcp_servers"),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management"),
    ],
)
def test_bad_requests_name_the_field(change: dict[str, Any], where: str, http: httpx.Client) -> None:
    response = http.post(PATH, json=BODY | change, headers={"x-request-id": "mine"})
    assert response.status_code == 400
    error = response.json()
    assert error["type"] == "error"
    assert error["request_id"] == "mine"
    assert error["error"]["type"] == "invalid_request_error"
    assert error["error"]["message"].startswith(where)


def test_what_the_server_refuses_is_named_as_here(http: httpx.Client, house: House) -> None:
    for path, name in (
        ("spec.stopping.stop[0]", "stop_sequences[0]"),
        ("spec.chat.tools[1].name", "tools[1].name"),
        ("spec.chat.tools[1].parameters_json", "tools[1].input_schema"),
        ("spec.chat.messages[3].text", "messages: is wrong"),
        ("spec.chat", "messages"),
        ("spec.reasoning.max_tokens", "thinking.budget_tokens"),
        ("spec.constraint.json_schema", "output_config"),
    ):
        violation = refuses((path, "is wrong"))
        house.servicer.script = fails(grpc.StatusCode.INVALID_ARGUMENT, "text", violation)
        message = http.post(PATH, json=BODY).json()["error"]["message"]
        assert message.startswith(name), message


@pytest.mark.parametrize(
    ("code", "details", "status", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, [reason("MODEL_NOT_FOUND")], 404, "not_found_error"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, [reason("FULL"), retry_in(2)], 429, "rate_limit_error"),
        (grpc.StatusCode.UNAVAILABLE, [reason("DOWN"), retry_in(2)], 503, "overloaded_error"),
        (grpc.StatusCode.UNAUTHENTICATED, [], 401, "authentication_error"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, [], 504, "timeout_error"),
        (grpc.StatusCode.INTERNAL, [], 500, "api_error"),
    ],
)
def test_errors_have_anthropics_shape(
    code: grpc.StatusCode, details: list[Any], status: int, kind: str, http: httpx.Client, house: House
) -> None:
    house.servicer.script = fails(code, "no", *details)
    for stream in (False, True):
        response = http.post(PATH, json=BODY | {"stream": stream})
        assert response.status_code == status
        assert response.json()["error"]["type"] == kind


def test_an_error_in_a_stream_is_an_event(http: httpx.Client, house: House) -> None:
    lost = fails(grpc.StatusCode.UNAVAILABLE, "lost", reason("LOST"), after=(started(), delta("Hel")))
    house.servicer.script = lost
    response = http.post(PATH, json=BODY | {"stream": True}, headers={"x-request-id": "mine"})
    assert response.text.endswith(
        'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"lost"},'
        '"request_id":"mine"}\n\n'
    )


def test_a_call_that_is_taken_up_again_is_a_fault(http: httpx.Client, house: House) -> None:
    house.servicer.script = plays(started(), call(0, "{", "f"), call(1, "{}", "f"), call(0, "}"), finished())
    assert http.post(PATH, json=BODY).json()["error"]["type"] == "api_error"


def test_unknown_paths_and_methods_have_anthropics_shape(http: httpx.Client) -> None:
    response = http.post(f"{PATH}/batches", json={})
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")
    response = http.get(PATH)
    assert (response.status_code, response.json()["type"]) == (405, "error")
    assert http.get("/v1/messagesx").json()["error"]["code"] == "unknown_url"


def test_silence_is_filled_with_pings() -> None:
    go_on = asyncio.Event()

    async def waits(spec: inference_pb2.GenerationSpec, context: Any) -> Any:
        yield started()
        await go_on.wait()
        yield finished()

    with serving(sse_keep_alive_s=0.01) as house, httpx.Client(base_url=house.url, timeout=20) as http:
        house.servicer.script = waits
        with http.stream("POST", PATH, json=BODY | {"stream": True}) as response:
            lines = response.iter_lines()
            assert any(line == "event: ping" for line in lines)
            house.call(_set(go_on))
            assert "event: message_stop" in list(lines)
        too_large = http.post(PATH, content=b" " * 5_000_000, headers={"content-type": "application/json"})
        assert (too_large.status_code, too_large.json()["error"]["type"]) == (413, "request_too_large")


async def _set(event: Any) -> None:
    event.set()


def test_text_stays_on_its_line(http: httpx.Client, house: House) -> None:
    house.servicer.script = plays(started(), delta("a\u2028b"), call(0, "{}", "f\u2028"), finished())
    response = http.post(PATH, json=BODY | {"stream": True})
    assert "\u2028" not in response.text
    house.servicer.script = HELLO
