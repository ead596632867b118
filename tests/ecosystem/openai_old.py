"""openai 0.28.1: the module-level interface, with `functions` for tools."""

from __future__ import annotations

from typing import Any

import openai
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

openai.api_base = f"{base_url()}/v1"
openai.api_key = "none"
CHAT: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 48, "request_timeout": 120}


def chat_and_stream() -> None:
    whole = openai.ChatCompletion.create(messages=messages(QUESTION), **CHAT)
    text = whole.choices[0].message.content
    assert "Paris" in text
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    chunks = openai.ChatCompletion.create(messages=messages(QUESTION), stream=True, **CHAT)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == text


def chat_functions() -> None:
    options: dict[str, Any] = {
        "messages": messages(WEATHER_QUESTION),
        "functions": [WEATHER_FUNCTION],
        "function_call": {"name": "get_weather"},
        **CHAT,
    }
    call = openai.ChatCompletion.create(**options).choices[0].message.function_call
    assert call.name == "get_weather"
    check_weather(call.arguments)
    deltas = [chunk["choices"][0]["delta"] for chunk in openai.ChatCompletion.create(stream=True, **options)]
    streamed = "".join(delta["function_call"]["arguments"] for delta in deltas if "function_call" in delta)
    assert streamed == call.arguments


def function_result() -> None:
    """A whole round: the call and its result go back with the conversation."""
    turns = [
        *messages(WEATHER_QUESTION),
        {"role": "assistant", "content": None, "function_call": {"name": "get_weather", "arguments": "{}"}},
        {"role": "function", "name": "get_weather", "content": "Sunny."},
    ]
    answer = openai.ChatCompletion.create(
        messages=turns, functions=[WEATHER_FUNCTION], function_call="none", **CHAT | {"max_tokens": 16}
    )
    assert answer.choices[0].message.content


def chat_structured_output() -> None:
    shape = {
        "type": "json_schema",
        "json_schema": {"name": "weather", "schema": WEATHER_SCHEMA, "strict": True},
    }
    options: dict[str, Any] = {"messages": messages(WEATHER_QUESTION), "response_format": shape, **CHAT}
    text = openai.ChatCompletion.create(**options).choices[0].message.content
    check_weather(text)
    chunks = openai.ChatCompletion.create(stream=True, **options)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == text


def completions() -> None:
    options: dict[str, Any] = {"model": MODEL, "prompt": "One, two,", "max_tokens": 8, "temperature": 0}
    text = openai.Completion.create(**options).choices[0].text
    assert text
    assert (
        "".join(chunk["choices"][0]["text"] for chunk in openai.Completion.create(stream=True, **options))
        == text
    )


def embeddings() -> None:
    """As numbers: the client's own base64 would want numpy."""
    answer = openai.Embedding.create(model=MODEL, input=["One text", "Another text"], encoding_format="float")
    one, another = (item["embedding"] for item in answer["data"])
    assert len(one) == len(another) > 0
    assert one != another


def models_and_errors() -> None:
    assert MODEL in [model["id"] for model in openai.Model.list()["data"]]
    for field, value, status in (("model", "no-such-model", 404), ("temperature", 3, 400)):
        options: dict[str, Any] = {"messages": messages(QUESTION), **CHAT, field: value}
        error = refusal(openai.error.InvalidRequestError, openai.ChatCompletion.create, **options)
        assert error.http_status == status
        assert error.param == field


run(
    chat_and_stream,
    chat_functions,
    function_result,
    chat_structured_output,
    completions,
    embeddings,
    models_and_errors,
)
