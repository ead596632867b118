"""The real default model, which has never heard of tools, calls them when it must."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import openai
import pydantic
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from processes import House

    from pagewire import Client

MESSAGES: Any = [{"role": "user", "content": "What is the weather in Paris and in Berlin, in celsius?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Paris", "Berlin", "Rome"]},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "unit", "days"],
        },
    },
}
TIME: Any = {"type": "function", "function": {"name": "get_time"}}
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}


class Weather(pydantic.BaseModel):
    """What a forced call must be."""

    model_config = pydantic.ConfigDict(extra="forbid")

    city: Literal["Paris", "Berlin", "Rome"]
    unit: Literal["celsius", "fahrenheit"]
    days: int = pydantic.Field(ge=1, le=9)


@pytest.fixture
def openai_client(house: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{house.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, **fields: Any) -> Any:
    options: dict[str, Any] = {"tools": [WEATHER, TIME], "max_tokens": 120, "temperature": 0} | fields
    return client.chat.completions.create(model="", messages=MESSAGES, **options)


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_named_function_gets_valid_arguments(openai_client: openai.OpenAI, seed: int | None) -> None:
    fields = {} if seed is None else {"seed": seed, "temperature": 1}
    choice = ask(openai_client, tool_choice=NAMED, **fields).choices[0]
    (call,) = choice.message.tool_calls
    assert (call.function.name, choice.finish_reason, choice.message.content) == ("get_weather", "stop", None)
    Weather.model_validate_json(call.function.arguments)


def test_a_stream_brings_the_same_call(openai_client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"tool_choice": "required", "parallel_tool_calls": False}
    whole = ask(openai_client, **fields).choices[0]
    assert whole.finish_reason == "tool_calls"
    chunks = [chunk.choices[0] for chunk in ask(openai_client, stream=True, **fields)]
    fragments = [fragment for chunk in chunks for fragment in chunk.delta.tool_calls or ()]
    assert fragments[0].function.name == whole.message.tool_calls[0].function.name
    assert len(fragments) > 2
    assert all(fragment.id is None and fragment.function.name is None for fragment in fragments[1:])
    arguments = "".join(fragment.function.arguments for fragment in fragments)
    assert arguments == whole.message.tool_calls[0].function.arguments
    assert chunks[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize("max_tokens", [4, 12, 45, 48, 50, 60])
def test_forced_calls_that_are_cut_leave_no_text(openai_client: openai.OpenAI, max_tokens: int) -> None:
    fields: dict[str, Any] = {"tool_choice": "required", "max_tokens": max_tokens}
    whole = ask(openai_client, **fields).choices[0]
    assert not whole.message.content
    chunks = ask(openai_client, stream=True, **fields)
    assert not any(chunk.choices[0].delta.content for chunk in chunks)


def test_both_doors_make_the_same_call(openai_client: openai.OpenAI, client: Client) -> None:
    over_http = ask(openai_client, tool_choice=NAMED).choices[0].message.tool_calls[0].function
    response = client.chat(MESSAGES, tools=[WEATHER, TIME], tool_choice=NAMED, max_tokens=120, temperature=0)
    (call,) = response.choices[0].tool_calls
    assert (call.name, call.arguments) == (over_http.name, over_http.arguments)
    Weather.model_validate_json(call.arguments)


def test_the_clients_own_helper_parses_a_streamed_call(openai_client: openai.OpenAI) -> None:
    tool: Any = openai.pydantic_function_tool(Weather, name="get_weather")
    with openai_client.chat.completions.stream(
        model="", messages=MESSAGES, tools=[tool], tool_choice="required", parallel_tool_calls=False,
        max_tokens=120, temperature=0,
    ) as stream:  # fmt: skip
        final = stream.get_final_completion()
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    (call,) = calls
    assert isinstance(call.function.parsed_arguments, Weather)


def test_tools_that_may_be_called_and_their_answers_are_taken(openai_client: openai.OpenAI) -> None:
    call = {
        "id": "c0",
        "type": "function",
        "function": {"name": "get_weather", "arguments": json.dumps({"city": "Paris"})},
    }
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c0", "content": "21 degrees"},
    ]
    options: dict[str, Any] = {"model": "", "messages": messages, "max_tokens": 8, "temperature": 0}
    with_tools = openai_client.chat.completions.create(tools=[WEATHER], **options)
    assert with_tools.choices[0].message.content
    none = openai_client.chat.completions.create(tools=[WEATHER], tool_choice="none", **options)
    assert none.usage is not None
    assert with_tools.usage is not None
    assert none.usage.prompt_tokens < with_tools.usage.prompt_tokens, "with none the model sees no tools"
