"""The real `anthropic` client against the translator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anthropic
import grpc
import pytest
from scripted_backend import MODEL, delta, fails, finished, plays, reason, refuses, retry_in, started

from pagewire.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripted_backend import House

MESSAGES: Any = [{"role": "user", "content": "hi"}]
TOOLS: Any = [{"name": "get_weather", "input_schema": {"type": "object"}}]
CALLS = plays(
    started(),
    delta("", reasoning_text="Ask."),
    delta("One moment."),
    delta(
        "",
        tool_calls=[
            inference_pb2.ToolCallDelta(index=0, id="a", name="get_weather", arguments='{"city":"Oslo"}')
        ],
    ),
    finished(reason=inference_pb2.FINISH_REASON_TOOL_CALLS),
)


@pytest.fixture
def client(house: House) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=house.url, api_key="none", max_retries=0) as client:
        yield client


def test_create(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model=MODEL, max_tokens=9, messages=MESSAGES, system="Be brief.")
    assert message.content[0].type == "text"
    assert message.content[0].text == "Hello"
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (7, 2)
    assert message._request_id is not None
    assert message.id == f"msg_{message._request_id}"


def test_raw_stream(client: anthropic.Anthropic) -> None:
    events = [
        event.type
        for event in client.messages.create(model=MODEL, max_tokens=9, messages=MESSAGES, stream=True)
    ]
    assert events == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_a_stream_gathers_the_same_message(client: anthropic.Anthropic, house: House) -> None:
    house.servicer.script = CALLS
    with client.messages.stream(model=MODEL, max_tokens=9, messages=MESSAGES, tools=TOOLS) as stream:
        assert "".join(stream.text_stream) == "One moment."
        gathered = stream.get_final_message()
    whole = client.messages.create(model=MODEL, max_tokens=9, messages=MESSAGES, tools=TOOLS)
    assert gathered.to_dict()["content"] == whole.to_dict()["content"]
    assert (gathered.usage, gathered.stop_reason) == (whole.usage, whole.stop_reason)
    assert [block.type for block in whole.content] == ["thinking", "text", "tool_use"]
    assert whole.content[2].type == "tool_use"
    assert whole.content[2].input == {"city": "Oslo"}


def test_a_round_of_tools(client: anthropic.Anthropic, house: House) -> None:
    house.servicer.script = CALLS
    message = client.messages.create(model=MODEL, max_tokens=9, messages=MESSAGES, tools=TOOLS)
    assert message.stop_reason == "tool_use"
    result: Any = {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "a", "content": "rain"}],
    }
    conversation = [*MESSAGES, message.to_param(), result]
    client.messages.create(model=MODEL, max_tokens=9, messages=conversation, tools=TOOLS)
    chat = house.servicer.specs[-1].chat
    assert [each.role for each in chat.messages] == ["user", "assistant", "tool"]
    assert chat.messages[1].reasoning_text == "Ask."
    assert chat.messages[1].tool_calls[0].arguments == '{"city":"Oslo"}'
    assert chat.messages[2].tool_call_id == "a"


def test_count_tokens(client: anthropic.Anthropic) -> None:
    count = client.messages.count_tokens(model=MODEL, messages=MESSAGES, tools=TOOLS)
    assert count.input_tokens == 1


async def test_async(house: House) -> None:
    async with anthropic.AsyncAnthropic(base_url=house.url, api_key="none", max_retries=0) as client:
        async with client.messages.stream(model=MODEL, max_tokens=9, messages=MESSAGES) as stream:
            assert "".join([text async for text in stream.text_stream]) == "Hello"
        message = await client.beta.messages.create(model=MODEL, max_tokens=9, messages=MESSAGES)
        assert message.content[0].type == "text"


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (
            grpc.StatusCode.INVALID_ARGUMENT,
            [refuses(("spec.sampling.temperature", "9 is too hot"))],
            anthropic.BadRequestError,
        ),
        (grpc.StatusCode.NOT_FOUND, [reason("MODEL_NOT_FOUND")], anthropic.NotFoundError),
        (grpc.StatusCode.UNAUTHENTICATED, [], anthropic.AuthenticationError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, [reason("FULL"), retry_in(1)], anthropic.RateLimitError),
        (grpc.StatusCode.UNAVAILABLE, [reason("DOWN"), retry_in(1)], anthropic.InternalServerError),
        (grpc.StatusCode.INTERNAL, [], anthropic.InternalServerError),
    ],
)
def test_errors_have_their_types(
    code: grpc.StatusCode,
    details: list[Any],
    expected: type[anthropic.APIStatusError],
    client: anthropic.Anthropic,
    house: House,
) -> None:
    house.servicer.script = fails(code, "text", *details)
    with pytest.raises(expected) as raised:
        client.messages.create(model=MODEL, max_tokens=9, messages=MESSAGES)
    assert raised.value.request_id is not None


def test_a_stream_that_fails_raises(client: anthropic.Anthropic, house: House) -> None:
    house.servicer.script = fails(
        grpc.StatusCode.UNAVAILABLE, "lost", reason("LOST"), after=(started(), delta("Hel"))
    )
    with (
        pytest.raises(anthropic.APIStatusError, match="lost"),
        client.messages.stream(model=MODEL, max_tokens=9, messages=MESSAGES) as stream,
    ):
        list(stream.text_stream)
