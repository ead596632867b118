"""The Responses API over a real socket, against a scripted gRPC server."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from typing import TYPE_CHECKING, Any, get_type_hints

import grpc
import httpx
import pytest
from google.protobuf import json_format
from scripted_backend import (
    BYE,
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

from pagewire.v1 import inference_pb2
from translator.fields import FIELDS, Endpoint, Support
from translator.response_request import ResponseRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scripted_backend import House

PATH = "/v1/responses"
CALL = inference_pb2.ToolCallDelta(index=0, id="call_1", name="look", arguments='{"at":')
MORE = inference_pb2.ToolCallDelta(index=0, arguments="1}")
TOOL_CALLS = inference_pb2.FINISH_REASON_TOOL_CALLS
CALLS = plays(
    started(),
    delta("", reasoning_text="Hm."),
    delta("See: "),
    delta("", tool_calls=[CALL]),
    delta("", tool_calls=[MORE]),
    finished(reason=TOOL_CALLS),
)
LOOK = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": True}


def post(http: httpx.Client, **fields: Any) -> httpx.Response:
    return http.post(PATH, json={"input": "hi"} | fields)


def answer(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = post(http, **fields)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def refusal(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def messages(house: House) -> list[dict[str, Any]]:
    """The messages of the last generation that was asked for."""
    return [json_format.MessageToDict(one) for one in house.servicer.specs[-1].chat.messages]


def text(content: str) -> dict[str, str]:
    return {"type": "input_text", "text": content}


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    parsed = []
    for frame in response.text.removesuffix("\n\n").split("\n\n"):
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        parsed.append(event)
    assert [event["sequence_number"] for event in parsed] == list(range(len(parsed)))
    return parsed


def transcript(response: httpx.Response) -> str:
    """The stream, with what changes from run to run blanked."""
    text = re.sub(r"(resp|msg|rs|fc)_[0-9a-f]{32}", r"\1_", response.text)
    text = re.sub(r'"(created_at|completed_at)":\d+', r'"\1":0', text)
    return re.sub(r'("response":\{"id":"resp_","object":"response").*?("output":)', r"\1,\2", text)


GOLDEN = """\
event: response.created
data: {"type":"response.created","sequence_number":0,"response":{"id":"resp_","object":"response","output":[]REST}}

event: response.in_progress
data: {"type":"response.in_progress","sequence_number":1,"response":{"id":"resp_","object":"response","output":[]REST}}

event: response.output_item.added
data: {"type":"response.output_item.added","sequence_number":2,"output_index":0,"item":{"id":"rs_0002","type":"reasoning","status":"in_progress","summary":[],"content":[]}}

event: response.content_part.added
data: {"type":"response.content_part.added","sequence_number":3,"item_id":"rs_0002","output_index":0,"content_index":0,"part":{"type":"reasoning_text","text":""}}

event: response.reasoning_text.delta
data: {"type":"response.reasoning_text.delta","sequence_number":4,"item_id":"rs_0002","output_index":0,"content_index":0,"delta":"Hm."}

event: response.reasoning_text.done
data: {"type":"response.reasoning_text.done","sequence_number":5,"item_id":"rs_0002","output_index":0,"content_index":0,"text":"Hm."}

event: response.content_part.done
data: {"type":"response.content_part.done","sequence_number":6,"item_id":"rs_0002","output_index":0,"content_index":0,"part":{"type":"reasoning_text","text":"Hm."}}

event: response.output_item.done
data: {"type":"response.output_item.done","sequence_number":7,"output_index":0,"item":{"id":"rs_0002","type":"reasoning","status":"completed","summary":[],"content":[{"type":"reasoning_text","text":"Hm."}]}}

event: response.output_item.added
data: {"type":"response.output_item.added","sequence_number":8,"output_index":1,"item":{"id":"msg_0003","type":"message","status":"in_progress","role":"assistant","content":[]}}

event: response.content_part.added
data: {"type":"response.content_part.added","sequence_number":9,"item_id":"msg_0003","output_index":1,"content_index":0,"part":{"type":"output_text","text":"","annotations":[],"logprobs":[]}}

event: response.output_text.delta
data: {"type":"response.output_text.delta","sequence_number":10,"item_id":"msg_0003","output_index":1,"content_index":0,"delta":"See: ","logprobs":[]}

event: response.output_text.done
data: {"type":"response.output_text.done","sequence_number":11,"item_id":"msg_0003","output_index":1,"content_index":0,"text":"See: ","logprobs":[]}

event: response.content_part.done
data: {"type":"response.content_part.done","sequence_number":12,"item_id":"msg_0003","output_index":1,"content_index":0,"part":{"type":"output_text","text":"See: ","annotations":[],"logprobs":[]}}

event: response.output_item.done
data: {"type":"response.output_item.done","sequence_number":13,"output_index":1,"item":{"id":"msg_0003","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"See: ","annotations":[],"logprobs":[]}]}}

event: response.output_item.added
data: {"type":"response.output_item.added","sequence_number":14,"output_index":2,"item":{"id":"fc_0004","type":"function_call","status":"in_progress","call_id":"call_1","name":"look","arguments":""}}

event: response.function_call_arguments.delta
data: {"type":"response.function_call_arguments.delta","sequence_number":15,"item_id":"fc_0004","output_index":2,"delta":"{\\"at\\":"}

event: response.function_call_arguments.delta
data: {"type":"response.function_call_arguments.delta","sequence_number":16,"item_id":"fc_0004","output_index":2,"delta":"1}"}

event: response.function_call_arguments.done
data: {"type":"response.function_call_arguments.done","sequence_number":17,"item_id":"fc_0004","output_index":2,"name":"look","arguments":"{\\"at\\":1}"}

event: response.output_item.done
data: {"type":"response.output_item.done","sequence_number":18,"output_index":2,"item":{"id":"fc_0004","type":"function_call","status":"completed","call_id":"call_1","name":"look","arguments":"{\\"at\\":1}"}}

event: response.completed
data: {"type":"response.completed","sequence_number":19,"response":{"id":"resp_","object":"response","output":[{"id":"rs_0002","type":"reasoning","status":"completed","summary":[],"content":[{"type":"reasoning_text","text":"Hm."}]},{"id":"msg_0003","type":"message","status":"completed","role":"assistant","content":[{"type":"output_text","text":"See: ","annotations":[],"logprobs":[]}]},{"id":"fc_0004","type":"function_call","status":"completed","call_id":"call_1","name":"look","arguments":"{\\"at\\":1}"}]REST}}

"""  # noqa: E501 - a transcript is what it is
REST = (
    ',"parallel_tool_calls":true,"previous_response_id":null,"prompt_cache_key":null,"reasoning":{"effort":'
    'null,"summary":null},"safety_identifier":null,"service_tier":"default","store":true,"temperature":null,'
    '"text":{"format":{"type":"text"},"verbosity":"medium"},"tool_choice":"auto","tools":[{"type":"function",'
    '"name":"look","description":null,"parameters":{"type":"object"},"strict":true}],"top_logprobs":0,'
    '"top_p":null,"truncation":"disabled","usage":%s,"user":null,"metadata":{}'
)
USAGE = (
    '{"input_tokens":7,"input_tokens_details":{"cached_tokens":2,"cache_write_tokens":0},"output_tokens":4,'
    '"output_tokens_details":{"reasoning_tokens":0},"total_tokens":11}'
)


class TestStream:
    def test_golden(self, http: httpx.Client, house: House) -> None:
        house.servicer.script = CALLS
        response = post(http, stream=True, tools=[LOOK])
        assert response.headers["cache-control"] == "no-cache"
        head, _, tail = GOLDEN.rpartition("REST")
        assert transcript(response) == head.replace("REST", REST % "null") + REST % USAGE + tail

    def test_the_whole_answer_is_the_streams_last_event(self, http: httpx.Client, house: House) -> None:
        house.servicer.script = CALLS
        last = events(post(http, stream=True))[-1]["response"]
        whole = answer(http)
        for body in (last, whole):
            for name in ("id", "created_at", "completed_at"):
                del body[name]
        assert re.sub("[0-9a-f]{32}", "", str(whole)) == re.sub("[0-9a-f]{32}", "", str(last))

    def test_a_refusal_is_a_status(self, http: httpx.Client, house: House) -> None:
        violation = refuses(("spec.chat.messages[3].text", "is too long"))
        house.servicer.script = fails(
            grpc.StatusCode.INVALID_ARGUMENT, "text", reason("INVALID_REQUEST"), violation
        )
        error = refusal(post(http, stream=True))
        assert (error["param"], error["message"]) == ("input", "input: is too long")

    @pytest.mark.parametrize(
        ("path", "fields", "param"),
        [
            ("spec.constraint.regex", {"structured_outputs": {"regex": "("}}, "structured_outputs"),
            ("spec.constraint.json_schema", {"text": {"format": {"type": "json_object"}}}, "text"),
            ("spec.chat.tools[0].parameters_json", {"tools": [{"type": "web_search"}, LOOK]}, "tools"),
            ("spec.stopping.max_tokens", {"max_output_tokens": 10**9}, "max_output_tokens"),
        ],
    )
    def test_a_refusal_names_the_field(
        self, http: httpx.Client, house: House, path: str, fields: dict[str, Any], param: str
    ) -> None:
        house.servicer.script = fails(
            grpc.StatusCode.INVALID_ARGUMENT, "text", reason("INVALID_REQUEST"), refuses((path, "is bad"))
        )
        for stream in (False, True):
            assert refusal(post(http, stream=stream, **fields))["param"] == param

    def test_a_full_queue_is_429(self, http: httpx.Client, house: House) -> None:
        house.servicer.script = fails(
            grpc.StatusCode.RESOURCE_EXHAUSTED, "full", reason("QUEUE_FULL"), retry_in(1)
        )
        assert post(http, stream=True).status_code == 429

    def test_a_failure_is_the_last_event(self, http: httpx.Client, house: House) -> None:
        house.servicer.script = fails(
            grpc.StatusCode.UNAVAILABLE, "lost", reason("REQUEST_LOST"), after=(started(), delta("Hel"))
        )
        error, failed = events(post(http, stream=True))[-2:]
        assert (error["type"], error["code"], error["message"]) == ("error", "request_lost", "lost")
        assert failed["type"] == "response.failed"
        assert failed["response"]["error"] == {"code": "server_error", "message": "lost"}
        assert failed["response"]["output"][0]["content"][0]["text"] == "Hel"
        assert http.get(f"{PATH}/{failed['response']['id']}").json() == failed["response"]
        assert post(http).status_code == 503


class TestCalls:
    def test_a_finished_call_ends_by_itself(self, http: httpx.Client, house: House) -> None:
        ends: list[bool] = []

        async def watches_its_end(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
            yield started()
            context.add_done_callback(lambda call: ends.append(call.cancelled()))
            yield finished()

        house.servicer.script = watches_its_end
        for fields in ({}, {"stream": True}, {"background": True, "stream": True}):
            assert post(http, **fields).status_code == 200
            assert house.servicer.left.acquire(timeout=BYE)
        assert ends == [False, False, False]
        assert house.backend.num_running == 0

    @pytest.mark.parametrize("stream", [False, True])
    def test_leaving_cancels_the_call(self, house: House, stream: bool) -> None:
        async def waits_for_ever(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
            yield started()
            yield delta("Hel")
            await asyncio.Event().wait()

        house.servicer.script = waits_for_ever
        body = json.dumps({"input": "hi", "stream": stream}).encode()
        head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", house.port), timeout=BYE) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert house.servicer.entered.acquire(timeout=BYE)
        assert house.servicer.left.acquire(timeout=BYE)


class TestInput:
    def test_items_become_messages(self, http: httpx.Client, house: House) -> None:
        items = [
            {"role": "developer", "content": "dev"},
            {"type": "message", "role": "user", "content": [text("one")]},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "r"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "t"}]},
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "look", "namespace": "web", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c2", "output": [text("o2")]},
            {"type": "function_call_output", "call_id": "c1", "output": "o1"},
            {"role": "assistant", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": [text("x"), text("y")]},
        ]  # fmt: skip
        answer(http, input=items, instructions="be")
        assert messages(house) == [
            {"role": "system", "text": "be"},
            {"role": "developer", "text": "dev"},
            {"role": "user", "text": "one"},
            {
                "role": "assistant",
                "reasoningText": "r",
                "text": "t",
                "toolCalls": [
                    {"id": "c1", "name": "look", "arguments": "{}"},
                    {"id": "c2", "name": "web__look", "arguments": "{}"},
                ],
            },
            {"role": "tool", "toolCallId": "c2", "name": "web__look", "text": "o2"},
            {"role": "tool", "toolCallId": "c1", "name": "look", "text": "o1"},
            {"role": "assistant", "text": "a"},
            {"role": "assistant", "text": "b"},
            {"role": "user", "parts": {"parts": [{"text": "x"}, {"text": "y"}]}},
        ]

    @pytest.mark.parametrize(
        ("item", "param"),
        [
            ({"type": "web_search_call", "id": "ws_1"}, "input[1].type"),
            ({"role": "user", "content": [{"type": "input_image"}]}, "input[1].content[0].type"),
            ({"role": "user", "content": []}, "input[1].content"),
            ({"role": "user"}, "input[1].content"),
            ({"role": "tool", "content": "x"}, "input[1].role"),
            ({"content": "x"}, "input[1].role"),
            ({"type": "function_call", "name": "f", "arguments": "{}"}, "input[1].call_id"),
            ({"type": "function_call_output", "call_id": "c"}, "input[1].output"),
            ({"type": "function_call_output", "call_id": "c", "output": "x"}, "input"),
            ({"type": "reasoning", "encrypted_content": "gAAAA"}, "input[1].encrypted_content"),
            ({"role": "user", "content": [{"type": "input_text"}]}, "input[1].content[0].text"),
        ],
    )  # fmt: skip
    def test_what_an_item_lacks_is_named(self, http: httpx.Client, item: dict[str, Any], param: str) -> None:
        assert refusal(post(http, input=[{"role": "user", "content": "hi"}, item]))["param"] == param

    def test_reasoning_comes_back_sealed(self, http: httpx.Client, house: House) -> None:
        house.servicer.script = CALLS
        body = answer(http, include=["reasoning.encrypted_content"], store=False)
        sealed = {
            "type": "reasoning",
            "summary": [],
            "encrypted_content": body["output"][0]["encrypted_content"],
        }
        answer(http, input=[sealed, *body["output"][1:]])
        (turn,) = messages(house)
        assert (turn["reasoningText"], turn["text"], turn["toolCalls"][0]["id"]) == ("Hm.", "See: ", "call_1")

    def test_an_item_is_taken_by_reference(self, http: httpx.Client, house: House) -> None:
        first = answer(http)
        answer(http, input=[{"type": "item_reference", "id": first["output"][0]["id"]}])
        assert messages(house) == [{"role": "assistant", "text": "Hello"}]
        assert refusal(post(http, input=[{"id": "msg_none"}]), 404)["param"] == "input[0].id"


class TestFields:
    def test_the_table_lists_every_field_of_the_type(self) -> None:
        rows = {field.name: field.support for field in FIELDS if field.endpoint & Endpoint.RESPONSES}
        assert set(get_type_hints(ResponseRequest)) <= set(rows)
        honoured = {name for name, support in rows.items() if support is Support.HONOURED}
        assert honoured <= set(get_type_hints(ResponseRequest))

    def test_options_reach_the_contract(self, http: httpx.Client, house: House) -> None:
        body = answer(
            http,
            max_output_tokens=5,
            temperature=0.5,
            top_p=0.25,
            top_k=3,
            seed=1,
            stop="x",
            truncation="auto",
            top_logprobs=2,
            include=["message.output_text.logprobs"],
            reasoning={"effort": "low", "summary": "auto"},
            metadata={"a": "b"},
            user="u",
            max_tool_calls=3,
            include_reasoning=False,
            thinking_token_budget=7,
        )
        spec = house.servicer.specs[-1]
        assert (spec.stopping.max_tokens, list(spec.stopping.stop)) == (5, ["x"])
        assert (spec.sampling.temperature, spec.sampling.top_p, spec.sampling.top_k) == (0.5, 0.25, 3)
        assert (spec.truncate_prompt_tokens, spec.output.logprobs) == (-1, 2)
        assert (spec.reasoning.exclude, spec.reasoning.max_tokens) == (True, 7)
        assert json.loads(spec.chat.template_arguments_json) == {
            "reasoning_effort": "low",
            "enable_thinking": True,
        }
        expected = {
            "max_output_tokens": 5,
            "temperature": 0.5,
            "top_p": 0.25,
            "truncation": "auto",
            "top_logprobs": 2,
            "reasoning": {"effort": "low", "summary": "auto"},
            "metadata": {"a": "b"},
            "user": "u",
            "max_tool_calls": 3,
        }
        assert {name: body[name] for name in expected} == expected

    def test_what_was_sampled_with_is_returned(self, http: httpx.Client, house: House) -> None:
        sampling = inference_pb2.Sampling(temperature=0.7, top_p=0.9)
        house.servicer.script = plays(started(sampling=sampling), delta("x"), finished())
        body = answer(http)
        assert (body["temperature"], body["top_p"]) == (0.7, 0.9)

    def test_a_format_is_a_constraint(self, http: httpx.Client, house: House) -> None:
        schema = {"type": "object", "properties": {"b": {}, "a": {}}}
        given = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
        body = answer(http, text={"format": given})
        assert house.servicer.specs[-1].constraint.json_schema == json.dumps(schema, separators=(",", ":"))
        assert body["text"]["format"] == given
        answer(http, text={"format": {"type": "json_object"}})
        assert house.servicer.specs[-1].constraint.json_object
        answer(http, text={"format": {"type": "text"}})
        assert not house.servicer.specs[-1].HasField("constraint")

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"input": None}, "input"),
            ({"input": []}, "input"),
            ({"max_output_tokens": 0}, "max_output_tokens"),
            ({"max_tokens": 5}, "max_tokens"),
            ({"n": 2}, "n"),
            ({"prompt": {"id": "p"}}, "prompt"),
            ({"conversation": "conv_1"}, "conversation"),
            ({"include": ["everything"]}, "include[0]"),
            ({"truncation": "some"}, "truncation"),
            ({"metadata": {"a": "x" * 513}}, None),
            ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
            ({"background": True, "store": False}, "background"),
            ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
            ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format"),
            (
                {"text": {"format": {"type": "json_object"}}, "structured_outputs": {"regex": "x"}},
                "structured_outputs",
            ),
            ({"guided_regex": "x"}, "guided_regex"),
            ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
            ({"previous_response_id": "resp_none"}, "previous_response_id"),
            ({"tools": [{"type": "function"}]}, "tools[0].name"),
            ({"tools": [LOOK, LOOK]}, "tools[1].name"),
            ({"tools": [LOOK], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice.name"),
            ({"tools": [LOOK], "tool_choice": {"type": "web_search"}}, "tool_choice"),
            ({"tools": [LOOK], "tool_choice": "always"}, "tool_choice"),
        ],
    )
    def test_a_refused_field_is_named(
        self, http: httpx.Client, house: House, fields: dict[str, Any], param: str | None
    ) -> None:
        error = refusal(post(http, **fields))
        assert param is None or error["param"] == param
        assert house.servicer.specs == []


class TestTools:
    def test_what_cannot_run_here_is_left_out(self, http: httpx.Client, house: House) -> None:
        tools = [
            LOOK,
            {"type": "web_search"},
            {"type": "namespace", "name": "web", "tools": [LOOK, {"type": "custom", "name": "c"}]},
            {"type": "custom", "name": "patch", "format": {"type": "text"}},
        ]  # fmt: skip
        body = answer(http, tools=tools, tool_choice="auto", parallel_tool_calls=False)
        chat = house.servicer.specs[-1].chat
        assert [tool.name for tool in chat.tools] == ["look", "web__look"]
        assert chat.tools[0].strict
        assert not chat.parallel_tool_calls
        assert [tool["type"] for tool in body["tools"]] == ["function", "namespace"]
        assert [tool["name"] for tool in body["tools"][1]["tools"]] == ["look"]
        answer(http, tools=[{"type": "web_search"}], tool_choice="auto")
        assert not house.servicer.specs[-1].chat.HasField("tool_choice")

    def test_choices(self, http: httpx.Client, house: House) -> None:
        other = LOOK | {"name": "other"}
        answer(http, tools=[LOOK, other], tool_choice={"type": "function", "name": "other"})
        assert house.servicer.specs[-1].chat.tool_choice.function_name == "other"
        allowed = {
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "other"}],
        }
        body = answer(http, tools=[LOOK, other], tool_choice=allowed)
        chat = house.servicer.specs[-1].chat
        assert [tool.name for tool in chat.tools] == ["other"]
        assert chat.tool_choice.mode == 3
        assert body["tool_choice"]["mode"] == "required"

    def test_a_round(self, http: httpx.Client, house: House) -> None:
        house.servicer.script = CALLS
        first = answer(http, tools=[LOOK])
        output = {"type": "function_call_output", "call_id": "call_1", "output": "42"}
        answer(http, tools=[LOOK], input=[output], previous_response_id=first["id"])
        assert messages(house)[1:] == [
            {
                "role": "assistant",
                "reasoningText": "Hm.",
                "text": "See: ",
                "toolCalls": [{"id": "call_1", "name": "look", "arguments": '{"at":1}'}],
            },
            {"role": "tool", "toolCallId": "call_1", "name": "look", "text": "42"},
        ]

    @pytest.mark.parametrize("is_stored", [True, False])
    def test_a_call_that_was_cut_is_kept_but_not_told_again(
        self, http: httpx.Client, house: House, is_stored: bool
    ) -> None:
        """A template could not read its arguments."""
        cut = finished(reason=inference_pb2.FINISH_REASON_LENGTH)
        house.servicer.script = plays(started(), delta("See: "), delta("", tool_calls=[CALL]), cut)
        first = answer(http, tools=[LOOK])
        assert first["status"] == "incomplete"
        assert [item["status"] for item in first["output"]] == ["completed", "incomplete"]
        more = {"role": "user", "content": "more"}
        if is_stored:
            second = answer(http, tools=[LOOK], input=[more], previous_response_id=first["id"])
        else:
            second = answer(
                http, tools=[LOOK], input=[{"role": "user", "content": "hi"}, *first["output"], more]
            )
        assert messages(house) == [
            {"role": "user", "text": "hi"},
            {"role": "assistant", "text": "See: "},
            {"role": "user", "text": "more"},
        ]
        path = f"{PATH}/{second['id']}/input_items"
        listed = http.get(path, params={"order": "asc"}).json()["data"]
        statuses = [(item["type"], item["status"]) for item in listed]
        assert statuses == [
            ("message", "completed"),
            ("message", "completed"),
            ("function_call", "incomplete"),
            ("message", "completed"),
        ]


# What the Codex command line sends, shortened.
CODEX: dict[str, Any] = {
    "model": "org/tiny-model",
    "instructions": "You are a coding agent.",
    "input": [
        {"type": "message", "role": "developer", "content": [text("<permissions>")]},
        {"type": "message", "role": "user", "content": [text("<environment>"), text("hi")]},
    ],
    "tools": [
        LOOK | {"description": "Runs.", "strict": False},
        {"type": "namespace", "name": "agents", "description": "d", "tools": [LOOK | {"name": "spawn"}]},
        {"type": "web_search", "external_web_access": False, "search_content_types": ["text"]},
        {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark"}},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "medium", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "019a",
    "client_metadata": {"session_id": "019a"},
    "text": {"verbosity": "low"},
}


def test_two_turns_of_codex(http: httpx.Client, house: House) -> None:
    call = inference_pb2.ToolCallDelta(index=0, id="call_1", name="agents__spawn", arguments="{}")
    house.servicer.script = plays(
        started(), delta("", reasoning_text="Hm."), delta("", tool_calls=[call]), finished(reason=TOOL_CALLS)
    )
    first = events(post(http, **CODEX))
    assert [tool.name for tool in house.servicer.specs[-1].chat.tools] == ["look", "agents__spawn"]
    items = [event["item"] for event in first if event["type"] == "response.output_item.done"]
    reasoning, called = items
    assert (called["namespace"], called["name"]) == ("agents", "spawn")
    sent_back = [
        {name: reasoning[name] for name in ("type", "summary", "encrypted_content")},
        {name: called[name] for name in ("type", "namespace", "name", "arguments", "call_id")},
        {"type": "function_call_output", "call_id": "call_1", "output": "done"},
    ]
    house.servicer.script = plays(started(), delta("Done."), finished())
    last = events(post(http, **(CODEX | {"input": CODEX["input"] + sent_back})))[-1]
    assert last["response"]["output"][0]["content"][0]["text"] == "Done."
    roles = [message["role"] for message in messages(house)]
    assert roles == ["system", "developer", "user", "assistant", "tool"]
    assert messages(house)[3]["reasoningText"] == "Hm."


class TestStored:
    def test_a_conversation_goes_on_without_its_instructions(self, http: httpx.Client, house: House) -> None:
        first = answer(http, instructions="be brief")
        second = answer(http, input="more", previous_response_id=first["id"])
        answer(http, input="last", previous_response_id=second["id"], instructions="be long")
        texts = [(message["role"], message["text"]) for message in messages(house)]
        assert texts == [
            ("system", "be long"),
            ("user", "hi"),
            ("assistant", "Hello"),
            ("user", "more"),
            ("assistant", "Hello"),
            ("user", "last"),
        ]

    def test_retrieve_and_delete(self, http: httpx.Client) -> None:
        body = answer(http)
        path = f"{PATH}/{body['id']}"
        assert http.get(path).json() == body
        assert http.delete(path).json() == {"id": body["id"], "object": "response", "deleted": True}
        for response in (http.get(path), http.delete(path), http.get(f"{path}/input_items")):
            assert refusal(response, 404)["message"] == f"Response with id '{body['id']}' not found."
        assert refusal(post(http, previous_response_id=body["id"]))["code"] == "previous_response_not_found"

    def test_what_is_not_to_be_stored_is_not(self, http: httpx.Client) -> None:
        body = answer(http, store=False)
        assert body["store"] is False
        assert http.get(f"{PATH}/{body['id']}").status_code == 404

    def test_a_synchronous_response_cannot_be_cancelled(self, http: httpx.Client) -> None:
        body = answer(http)
        error = refusal(http.post(f"{PATH}/{body['id']}/cancel"))
        assert error["message"] == "Cannot cancel a synchronous response."
        assert http.post(f"{PATH}/resp_none/cancel").status_code == 404

    def test_input_items_are_paged(self, http: httpx.Client) -> None:
        first = answer(http, input=[{"role": "user", "content": str(number)} for number in range(3)])
        path = f"{PATH}/{first['id']}/input_items"
        page = http.get(path, params={"limit": 2, "order": "asc"}).json()
        assert [item["content"][0]["text"] for item in page["data"]] == ["0", "1"]
        assert page["has_more"]
        page = http.get(path, params={"limit": 2, "order": "asc", "after": page["last_id"]}).json()
        assert [item["content"][0]["text"] for item in page["data"]] == ["2"]
        assert not page["has_more"]
        second = answer(http, input="more", previous_response_id=first["id"])
        newest = http.get(f"{PATH}/{second['id']}/input_items").json()["data"]
        assert [item["content"][0]["text"] for item in newest] == ["more", "Hello", "2", "1", "0"]
        for name, value in [("limit", "0"), ("limit", "101"), ("order", "up"), ("after", "msg_none")]:
            assert refusal(http.get(path, params={name: value}))["param"] == name

    def test_input_items_go_back_to_the_first_turn_that_is_gone(self, http: httpx.Client) -> None:
        ids: list[str] = []
        for said in ("one", "two", "three"):
            ids.append(answer(http, input=said, previous_response_id=ids[-1] if ids else None)["id"])
        path = f"{PATH}/{ids[2]}/input_items"
        for gone, expected in ((ids[0], ["three", "Hello", "two"]), (ids[1], ["three"])):
            http.delete(f"{PATH}/{gone}")
            listed = http.get(path).json()["data"]
            assert [item["content"][0]["text"] for item in listed] == expected

    def test_a_server_without_a_store_says_so(self) -> None:
        with serving(response_store_size=0) as house, httpx.Client(base_url=house.url, timeout=20) as http:
            body = answer(http)
            assert body["store"] is False
            assert http.get(f"{PATH}/{body['id']}").status_code == 404
            assert refusal(post(http, background=True))["param"] == "background"

    def test_a_long_conversation_has_an_end(self) -> None:
        with serving(max_body_bytes=4000) as house, httpx.Client(base_url=house.url, timeout=20) as http:
            response = post(http)
            while response.status_code == 200:
                response = post(http, input="x" * 500, previous_response_id=response.json()["id"])
            error = refusal(response, 413)
            assert (error["param"], error["code"]) == ("previous_response_id", "request_too_large")

    def test_tokens_are_counted(self, http: httpx.Client, house: House) -> None:
        response = http.post(f"{PATH}/input_tokens", json={"input": "hi", "instructions": "be"})
        assert response.json()["object"] == "response.input_tokens"
        (question,) = house.servicer.tokenize_requests
        assert [message.text for message in question.chat.messages] == ["be", "hi"]
