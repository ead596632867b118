"""Whole streams byte for byte, against `golden/*.sse`. The time and our version are blanked.

After a change that is meant, delete a file and run the test: it writes what it got, and fails once.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from scripted_backend import delta, fails, finished, plays, reason, started

from pagewire.v1 import inference_pb2

if TYPE_CHECKING:
    import httpx
    from scripted_backend import House

GOLDEN = Path(__file__).parent / "golden"
BODIES: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "hi"}], "stream": True},
    "completion": {"prompt": "hi", "stream": True},
}
PATHS = {"chat": "/v1/chat/completions", "completion": "/v1/completions"}
USAGE = {"stream_options": {"include_usage": True}}
CONTINUOUS = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
LENGTH, TOOL_CALLS = inference_pb2.FINISH_REASON_LENGTH, inference_pb2.FINISH_REASON_TOOL_CALLS


def token(token_id: int, text: bytes, value: float) -> inference_pb2.TokenLogprob:
    one = inference_pb2.TokenLogprob(token_id=token_id, logprob=value, rank=1, token_bytes=text)
    one.top.add(token_id=token_id, logprob=value, token_bytes=text)
    one.top.add(token_id=9, logprob=float("-inf"), token_bytes=b"\xc3")
    return one


def stopped(text: str) -> inference_pb2.StreamGenerateResponse:
    event = finished()
    event.finished.choices[0].stop_text = text
    return event


PLAIN = plays(started(), delta("Hel"), delta("lo \u2028"), stopped("\n\n"))
CHOICES = plays(started(), delta("a", 0), delta("b", 1), delta("c", 0), finished(2, LENGTH))
LOGPROBS = plays(
    started(prompt_text="hi", prompt_token_ids=[7], prompt_logprobs=[
        inference_pb2.TokenLogprob(token_id=7, token_bytes=b"hi", absent=True)
    ]),
    delta("Hé", token_ids=[5], logprobs=[token(5, "Hé".encode(), -0.25)]),
    delta("", token_ids=[6], logprobs=[token(6, b"\xe2", -1.5)]),
    finished(),
)  # fmt: skip
LOST = fails(
    grpc.StatusCode.UNAVAILABLE,
    "the engine was lost",
    reason("ENGINE_UNAVAILABLE"),
    after=(started(), delta("Hel")),
)
CALLS = plays(
    started(),
    delta("", tool_calls=[inference_pb2.ToolCallDelta(index=0, id="call_1", name="add")]),
    delta("", tool_calls=[inference_pb2.ToolCallDelta(index=0, arguments='{"a": ')]),
    delta("", tool_calls=[inference_pb2.ToolCallDelta(index=0, arguments='"é"}')]),
    delta("", tool_calls=[inference_pb2.ToolCallDelta(index=1, id="call_2", name="nop", arguments="{}")]),
    finished(1, TOOL_CALLS),
)
THINKING = plays(started(), delta("", reasoning_text="Hm."), delta("4"), finished())
CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "chat_plain": ("chat", PLAIN, {}),
    "chat_usage": ("chat", PLAIN, USAGE),
    "chat_continuous_usage": ("chat", PLAIN, CONTINUOUS),
    "chat_two_choices": ("chat", CHOICES, {"n": 2}),
    "chat_logprobs": (
        "chat",
        LOGPROBS,
        {"logprobs": True, "top_logprobs": 2, "return_token_ids": True, "return_prompt_text": True},
    ),
    "chat_error": ("chat", LOST, {}),
    "chat_tools": ("chat", CALLS, {"tools": [{"type": "function", "function": {"name": "add"}}]}),
    "chat_reasoning": ("chat", THINKING, {}),
    "completion_plain": ("completion", PLAIN, {}),
    "completion_usage": ("completion", PLAIN, USAGE),
    "completion_continuous_usage": ("completion", PLAIN, CONTINUOUS),
    "completion_two_choices": ("completion", CHOICES, {"n": 2}),
    "completion_logprobs": ("completion", LOGPROBS, {"logprobs": 2, "echo": True, "return_token_ids": True}),
    "completion_error": ("completion", LOST, {}),
}


@pytest.mark.check("R05")
@pytest.mark.parametrize("name", CASES)
def test_a_stream_is_as_it_was(http: httpx.Client, house: House, name: str) -> None:
    route, script, fields = CASES[name]
    house.servicer.script = script
    response = http.post(PATHS[route], json=BODIES[route] | fields, headers={"x-request-id": "golden"})
    assert response.status_code == 200, response.text
    got = re.sub(rb'"created":\d+', b'"created":0', response.content)
    got = re.sub(rb'"pagewire-[^"]+"', b'"pagewire-0"', got)
    file = GOLDEN / f"{name}.sse"
    if not file.exists():
        file.write_bytes(got)
        pytest.fail(f"{file.name} was not there; now it is: read it")
    assert got.decode() == file.read_text(encoding="utf-8")


def test_no_golden_file_is_left_over() -> None:
    names = {file.stem for file in GOLDEN.glob("*.sse")}
    assert {name for name in names if name.startswith(("chat", "completion"))} == set(CASES)
