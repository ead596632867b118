"""POST /v1/chat/completions over a real socket, against a scripted gRPC server."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from scripted_backend import MODEL, delta, fails, finished, plays, reason, refuses, retry_in, started

from pagewire.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx
    from scripted_backend import House

MESSAGES = [{"role": "user", "content": "hi"}]
PATH = "/v1/chat/completions"
HEAD = f'"object":"chat.completion.chunk","created":0,"model":"{MODEL}","system_fingerprint":"pagewire-0"'
USAGE = (
    '{"prompt_tokens":7,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":2},'
    '"completion_tokens_details":{"reasoning_tokens":0}}'
)


def post(http: httpx.Client, request_id: str = "r-1", **fields: Any) -> httpx.Response:
    return http.post(PATH, json={"messages": MESSAGES} | fields, headers={"x-request-id": request_id})


def transcript(response: httpx.Response) -> list[str]:
    """The frames, with what changes from run to run blanked."""
    assert response.text.endswith("\n\n")
    frames = response.text.removesuffix("\n\n").split("\n\n")
    frames = [re.sub(r'"created":\d+', '"created":0', frame) for frame in frames]
    return [re.sub(r"pagewire-[^\"]+", "pagewire-0", frame) for frame in frames]


def chunk(choice: str, tail: str = "") -> str:
    return f'data: {{"id":"chatcmpl-r-1",{HEAD},"choices":[{choice}]{tail}}}'


def content(text: str, index: int = 0) -> str:
    return (
        f'{{"index":{index},"delta":{{"content":{json.dumps(text)}}},"logprobs":null,"finish_reason":null}}'
    )


def role(index: int = 0) -> str:
    return (
        f'{{"index":{index},"delta":{{"role":"assistant","content":"","refusal":null}},"logprobs":null,'
        '"finish_reason":null}'
    )


def finish(why: str = "stop", index: int = 0) -> str:
    return f'{{"index":{index},"delta":{{}},"logprobs":null,"finish_reason":"{why}","stop_reason":null}}'


class TestStream:
    def test_golden(self, http: httpx.Client) -> None:
        response = post(http, stream=True)
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["x-request-id"] == "r-1"
        assert transcript(response) == [
            chunk(role()),
            chunk(content("Hel")),
            chunk(content("lo")),
            chunk(finish()),
            "data: [DONE]",
        ]

    def test_golden_with_usage(self, http: httpx.Client) -> None:
        response = post(http, stream=True, stream_options={"include_usage": True})
        null = ',"usage":null'
        assert transcript(response) == [
            chunk(role(), null),
            chunk(content("Hel"), null),
            chunk(content("lo"), null),
            chunk(finish(), null),
            chunk("", f',"usage":{USAGE % (2, 9)}'),
            "data: [DONE]",
        ]

    def test_golden_with_continuous_usage(self, http: httpx.Client) -> None:
        options = {"include_usage": True, "continuous_usage_stats": True}
        response = post(http, stream=True, stream_options=options)
        assert transcript(response) == [
            chunk(role(), f',"usage":{USAGE % (0, 7)}'),
            chunk(content("Hel"), f',"usage":{USAGE % (1, 8)}'),
            chunk(content("lo"), f',"usage":{USAGE % (2, 9)}'),
            chunk(finish(), f',"usage":{USAGE % (2, 9)}'),
            chunk("", f',"usage":{USAGE % (2, 9)}'),
            "data: [DONE]",
        ]

    def test_golden_with_two_choices(self, http: httpx.Client, house: House) -> None:
        both = inference_pb2.StreamGenerateResponse()
        both.delta.choices.add(index=0, text="a", num_tokens=1)
        both.delta.choices.add(index=1, text="b", num_tokens=1)
        house.servicer.script = plays(
            started(), both, delta("c", 1), finished(2, inference_pb2.FINISH_REASON_LENGTH)
        )
        assert transcript(post(http, stream=True, n=2)) == [
            chunk(role(0)),
            chunk(role(1)),
            chunk(content("a", 0)),
            chunk(content("b", 1)),
            chunk(content("c", 1)),
            chunk(finish("length", 0)),
            chunk(finish("length", 1)),
            "data: [DONE]",
        ]

    def test_nothing_is_sent_for_tokens_that_have_no_text_yet(self, http: httpx.Client, house: House) -> None:
        house.servicer.script = plays(started(), delta(""), delta("é", num_tokens=2), finished())
        response = post(http, stream=True, stream_options={"include_usage": True})
        frames = transcript(response)
        assert len(frames) == 5
        assert '"completion_tokens":3' in frames[3]

    def test_text_of_any_kind_stays_on_its_line(self, http: httpx.Client, house: House) -> None:
        text = 'a"\\\n\r\u0000\u0085\u2028\u2029é\U0001f600'
        house.servicer.script = plays(started(), delta(text), finished())
        frame = transcript(post(http, stream=True))[1]
        assert len(frame.splitlines()) == 1
        assert json.loads(frame.removeprefix("data: "))["choices"][0]["delta"]["content"] == text

    def test_a_refusal_is_a_status_and_not_a_stream(self, http: httpx.Client, house: House) -> None:
        violation = refuses(("spec.sampling.temperature", "9 is out of range"))
        house.servicer.script = fails(
            grpc.StatusCode.INVALID_ARGUMENT, "text", reason("INVALID_REQUEST"), violation
        )
        response = post(http, stream=True, temperature=9)
        assert response.status_code == 400
        assert response.json()["error"] == {
            "message": "temperature: 9 is out of range",
            "type": "invalid_request_error",
            "param": "temperature",
            "code": None,
        }

    def test_a_failure_in_the_stream_ends_it_with_an_error(self, http: httpx.Client, house: House) -> None:
        house.servicer.script = fails(
            grpc.StatusCode.UNAVAILABLE,
            "the engine was lost",
            reason("ENGINE_UNAVAILABLE"),
            after=(started(), delta("Hel")),
        )
        response = post(http, stream=True)
        assert response.status_code == 200
        frames = transcript(response)
        assert frames[:2] == [chunk(role()), chunk(content("Hel"))]
        assert json.loads(frames[2].removeprefix("data: ")) == {
            "error": {
                "message": "the engine was lost (request id: r-1)",
                "type": "server_error",
                "param": None,
                "code": "engine_unavailable",
            }
        }
        assert len(frames) == 3

    def test_a_stream_without_an_end_is_an_error(self, http: httpx.Client, house: House) -> None:
        house.servicer.script = plays(started(), delta("Hel"))
        frames = transcript(post(http, stream=True))
        assert '"code":"internal_error"' in frames[-1]
        assert post(http).status_code == 500


class TestWhole:
    def test_golden(self, http: httpx.Client, house: House) -> None:
        response = post(http, model="m", temperature=0.5)
        body = response.json()
        created, fingerprint = body.pop("created"), body.pop("system_fingerprint")
        assert created > 1_700_000_000
        assert fingerprint.startswith("pagewire-")
        assert body == {
            "id": "chatcmpl-r-1",
            "object": "chat.completion",
            "model": MODEL,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Hello", "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                    "stop_reason": None,
                }
            ],
            "usage": json.loads(USAGE % (2, 9)),
        }
        assert house.servicer.specs[0].model == "m"
        assert house.servicer.metadata[0]["x-request-id"] == "r-1"
        assert 500 < house.servicer.time_remaining_s < 602

    def test_what_stopped_a_choice_is_said(self, http: httpx.Client, house: House) -> None:
        end = finished(2)
        end.finished.choices[0].stop_text = "a\u2028"
        end.finished.choices[1].stop_token_id = 7
        house.servicer.script = plays(started(), end)
        choices = post(http, n=2).json()["choices"]
        assert [choice["stop_reason"] for choice in choices] == ["a\u2028", 7]
        frames = transcript(post(http, n=2, stream=True))
        assert all(len(frame.splitlines()) == 1 for frame in frames)
        reasons = [json.loads(frame.removeprefix("data: "))["choices"][0] for frame in frames[2:4]]
        assert [choice["stop_reason"] for choice in reasons] == ["a\u2028", 7]

    def test_the_last_message_is_echoed_and_its_role_kept(self, http: httpx.Client, house: House) -> None:
        house.servicer.script = plays(started(prompt_text="<p>"), delta("lo"), finished())
        fields: dict[str, Any] = {
            "messages": [*MESSAGES, {"role": "assistant", "content": "Hel"}],
            "continue_final_message": True,
            "echo": True,
            "return_prompt_text": True,
        }
        body = post(http, **fields).json()
        message = {"role": "assistant", "content": "Hello", "refusal": None}
        assert (body["choices"][0]["message"], body["prompt_text"]) == (message, "<p>")
        first, second, *_ = transcript(post(http, **fields, stream=True))
        chunk = json.loads(first.removeprefix("data: "))
        assert chunk["choices"][0]["delta"] == {"role": "assistant", "content": "Hel", "refusal": None}
        assert chunk["prompt_text"] == "<p>"
        assert '"content":"lo"' in second
        fields |= {"messages": [{"role": "narrator", "content": "Hel"}], "echo": False}
        assert post(http, **fields).json()["choices"][0]["message"]["role"] == "narrator"

    @pytest.mark.parametrize("stream", [False, True])
    def test_what_choices_repeat_of_the_prompt_is_bounded(
        self, http: httpx.Client, house: House, stream: bool
    ) -> None:
        """However little of it the model reads."""

        async def answers(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
            yield started(prompt_text="x" * 540_000)
            yield finished(spec.sampling.n)

        house.servicer.script = answers
        fields: dict[str, Any] = {
            "messages": [*MESSAGES, {"role": "assistant", "content": "x" * 2_200_000}],
            "continue_final_message": True,
            "truncate_prompt_tokens": 1,
            "stream": stream,
        }
        error = post(http, **fields, n=32, echo=True).json()["error"]
        assert (error["param"], "expected at most 67108864" in error["message"]) == ("n", True)
        assert house.servicer.left.acquire(timeout=20)
        assert post(http, **fields, n=2, echo=True).status_code == 200
        # A whole answer has the prompt's text once.
        assert post(http, **fields, n=128, return_prompt_text=True).status_code == (400 if stream else 200)

    def test_choices_equal_the_stream(self, http: httpx.Client, house: House) -> None:
        house.servicer.script = plays(started(), delta("a", 1), delta("b", 0), delta("c", 1), finished(2))
        choices = post(http, n=2).json()["choices"]
        assert [choice["message"]["content"] for choice in choices] == ["b", "ac"]

    def test_logprobs(self, http: httpx.Client, house: House) -> None:
        token = inference_pb2.TokenLogprob(token_id=5, logprob=-0.5, rank=1, token_bytes=b"\xc3")
        token.top.add(token_id=5, logprob=-0.5, token_bytes=b"\xc3")
        token.top.add(token_id=6, logprob=float("-inf"), token_bytes=b" a")
        house.servicer.script = plays(started(), delta("é", logprobs=[token]), finished())
        expected = {
            "content": [
                {
                    "token": "\ufffd",
                    "logprob": -0.5,
                    "bytes": [0xC3],
                    "top_logprobs": [
                        {"token": "\ufffd", "logprob": -0.5, "bytes": [0xC3]},
                        {"token": " a", "logprob": -9999.0, "bytes": [32, 97]},
                    ],
                }
            ],
            "refusal": None,
        }
        assert post(http, logprobs=True, top_logprobs=2).json()["choices"][0]["logprobs"] == expected
        assert house.servicer.specs[0].output.logprobs == 2
        frames = transcript(post(http, logprobs=True, top_logprobs=2, stream=True))
        choice = json.loads(frames[1].removeprefix("data: "))["choices"][0]
        assert choice["logprobs"] == expected
        named = post(http, logprobs=True, return_tokens_as_token_ids=True).json()
        assert named["choices"][0]["logprobs"]["content"][0]["token"] == "token_id:5"

    def test_token_ids_and_prompt_logprobs(self, http: httpx.Client, house: House) -> None:
        first = inference_pb2.TokenLogprob(token_id=1, absent=True)
        second = inference_pb2.TokenLogprob(token_id=2, logprob=-1.5, rank=4, token_bytes=b"b")
        second.top.add(token_id=3, logprob=-0.25, token_bytes=b"c")
        house.servicer.script = plays(
            started(prompt_token_ids=[1, 2], prompt_logprobs=[first, second]),
            delta("x", token_ids=[9]),
            finished(),
        )
        body = post(http, return_token_ids=True, prompt_logprobs=1).json()
        assert body["prompt_token_ids"] == [1, 2]
        assert body["choices"][0]["token_ids"] == [9]
        assert body["prompt_logprobs"] == [
            None,
            {
                "2": {"logprob": -1.5, "rank": 4, "decoded_token": "b"},
                "3": {"logprob": -0.25, "rank": 1, "decoded_token": "c"},
            },
        ]
        frames = transcript(post(http, return_token_ids=True, stream=True))
        assert '"prompt_token_ids":[1,2]' in frames[0]
        assert '"token_ids":[9]' in frames[1]


class TestErrors:
    def test_overload_asks_to_wait(self, http: httpx.Client, house: House) -> None:
        house.servicer.script = fails(
            grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", reason("QUEUE_FULL"), retry_in(2.5)
        )
        response = post(http)
        assert response.status_code == 429
        assert response.headers["retry-after"] == "3"
        assert response.json()["error"] == {
            "message": "the queue is full",
            "type": "rate_limit_error",
            "param": None,
            "code": "queue_full",
        }

    def test_a_prompt_beyond_the_context_has_its_own_code(self, http: httpx.Client, house: House) -> None:
        house.servicer.script = fails(
            grpc.StatusCode.INVALID_ARGUMENT,
            "text",
            reason("CONTEXT_LENGTH_EXCEEDED"),
            refuses(("spec.chat", "This model's maximum context length is 64 tokens.")),
        )
        error = post(http).json()["error"]
        assert error["code"] == "context_length_exceeded"
        assert error["param"] == "messages"

    def test_an_unknown_model(self, http: httpx.Client, house: House) -> None:
        house.servicer.script = fails(
            grpc.StatusCode.NOT_FOUND, "The model `x` does not exist.", reason("MODEL_NOT_FOUND")
        )
        response = post(http, model="x")
        assert response.status_code == 404
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("model_not_found", "model")

    def test_faults_show_nothing_of_the_inside(
        self, http: httpx.Client, house: House, caplog: pytest.LogCaptureFixture
    ) -> None:
        for code in grpc.StatusCode:
            if code in (grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED):
                continue
            house.servicer.script = fails(code, "Traceback /srv/secret 0x7f00 10.0.0.1")
            response = post(http)
            error = response.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            assert response.headers["x-request-id"] == "r-1"
            if response.status_code >= 500:
                assert "secret" not in response.text
                assert "r-1" in error["message"]
        assert "secret" in caplog.text

    def test_a_fault_that_is_not_worth_a_retry_says_so(self, http: httpx.Client, house: House) -> None:
        house.servicer.script = fails(
            grpc.StatusCode.INTERNAL, "the model computed NaN", reason("NUMERICAL_ERROR")
        )
        response = post(http)
        assert response.status_code == 500
        assert response.headers["x-should-retry"] == "false"
        assert "NaN" in response.json()["error"]["message"]
