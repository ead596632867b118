"""The anthropic client: messages, streams, tools, structured output and counted tokens."""

from __future__ import annotations

from typing import Any, Literal

import anthropic
import pydantic
from scene import (
    MODEL,
    QUESTION,
    WEATHER_FUNCTION,
    WEATHER_QUESTION,
    WEATHER_SCHEMA,
    base_url,
    check_weather,
    messages,
    refusal,
    run,
)

client = anthropic.Anthropic(base_url=base_url(), api_key="none", max_retries=0, timeout=120)
# This client no longer has a parameter for it.
COLD: dict[str, Any] = {"extra_body": {"temperature": 0}}
OPTIONS: dict[str, Any] = {"model": MODEL, "max_tokens": 48, **COLD}
TOOL: Any = {
    "name": "get_weather",
    "description": WEATHER_FUNCTION["description"],
    "input_schema": WEATHER_SCHEMA,
}


def messages_and_stream() -> None:
    whole = client.messages.create(messages=messages(QUESTION), system="Be short.", **OPTIONS)
    (block,) = whole.content
    assert block.type == "text"
    assert "Paris" in block.text
    assert whole.stop_reason == "end_turn"
    with client.messages.stream(messages=messages(QUESTION), system="Be short.", **OPTIONS) as stream:
        assert "".join(stream.text_stream) == block.text
        assert stream.get_final_message().usage.output_tokens == whole.usage.output_tokens


class Weather(pydantic.BaseModel):
    """What structured output parses into."""

    city: Literal["Paris", "Rome"]
    days: int


def tools() -> None:
    for choice in (
        {"type": "any", "disable_parallel_tool_use": True},
        {"type": "tool", "name": "get_weather"},
    ):
        options: dict[str, Any] = {"tools": [TOOL], "tool_choice": choice, **OPTIONS}
        whole = client.messages.create(messages=messages(WEATHER_QUESTION), **options)
        (block,) = whole.content
        assert block.type == "tool_use"
        assert block.name == "get_weather"
        assert whole.stop_reason == "tool_use"
        check_weather(block.input)
        with client.messages.stream(messages=messages(WEATHER_QUESTION), **options) as stream:
            (streamed,) = stream.get_final_message().content
        assert streamed.type == "tool_use"
        assert streamed.input == block.input


def tool_result() -> None:
    """A whole round: the call and its result go back with the conversation."""
    call = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Rome", "days": 3}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Sunny."}
    turns: list[Any] = [
        *messages(WEATHER_QUESTION),
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    options: dict[str, Any] = {"tools": [TOOL], "tool_choice": {"type": "none"}, **OPTIONS, "max_tokens": 16}
    answer = client.messages.create(messages=turns, **options)
    assert [block.type for block in answer.content] == ["text"]


def structured_output() -> None:
    whole = client.messages.parse(messages=messages(WEATHER_QUESTION), output_format=Weather, **OPTIONS)
    assert whole.parsed_output is not None
    with client.messages.stream(
        messages=messages(WEATHER_QUESTION), output_format=Weather, **OPTIONS
    ) as stream:
        assert stream.get_final_message().parsed_output == whole.parsed_output


def count_tokens() -> None:
    counted = client.messages.count_tokens(model=MODEL, messages=messages(QUESTION)).input_tokens
    answer = client.messages.create(messages=messages(QUESTION), **OPTIONS | {"max_tokens": 1})
    assert counted == answer.usage.input_tokens
    assert (
        client.messages.count_tokens(model=MODEL, messages=messages(QUESTION), tools=[TOOL]).input_tokens
        > counted
    )


def errors() -> None:
    options: dict[str, Any] = {"messages": messages(QUESTION), **OPTIONS}
    unknown = refusal(anthropic.NotFoundError, client.messages.create, **options | {"model": "no-such-model"})
    assert "no-such-model" in unknown.message
    hot = {"extra_body": {"temperature": 3}}
    assert (
        "temperature" in refusal(anthropic.BadRequestError, client.messages.create, **options | hot).message
    )


run(messages_and_stream, tools, tool_result, structured_output, count_tokens, errors)
