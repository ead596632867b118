"""The openai client for Python: chat, completions, responses and embeddings."""

from __future__ import annotations

from typing import Any, Literal

import openai
import pydantic
from scene import (
    MODEL,
    QUESTION,
    WEATHER_FUNCTION,
    WEATHER_QUESTION,
    base_url,
    check_weather,
    messages,
    refusal,
    run,
)

client = openai.OpenAI(base_url=f"{base_url()}/v1", api_key="none", max_retries=0, timeout=120)
CHAT: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 48}
RESPONSE: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_output_tokens": 48}
TOOL: Any = {"type": "function", "function": WEATHER_FUNCTION}
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}
RESPONSE_TOOL: Any = {"type": "function", "strict": True, **WEATHER_FUNCTION}


class Weather(pydantic.BaseModel):
    """What structured output parses into."""

    city: Literal["Paris", "Rome"]
    days: int = pydantic.Field(ge=1, le=9)


def chat_and_stream() -> None:
    whole = client.chat.completions.create(messages=messages(QUESTION), **CHAT)
    text = whole.choices[0].message.content
    assert text
    assert "Paris" in text
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    with client.chat.completions.stream(
        messages=messages(QUESTION), stream_options={"include_usage": True}, **CHAT
    ) as stream:
        streamed = "".join(event.delta for event in stream if event.type == "content.delta")
        usage = stream.get_final_completion().usage
    assert streamed == text
    assert usage is not None
    assert usage.total_tokens == whole.usage.total_tokens


def chat_tools() -> None:
    for choice in ("required", NAMED):
        whole = client.chat.completions.create(
            messages=messages(WEATHER_QUESTION),
            tools=[TOOL],
            tool_choice=choice,
            parallel_tool_calls=False,
            **CHAT,
        )
        (call,) = whole.choices[0].message.tool_calls or ()
        assert call.type == "function"
        assert call.function.name == "get_weather"
        check_weather(call.function.arguments)
        with client.chat.completions.stream(
            messages=messages(WEATHER_QUESTION),
            tools=[TOOL],
            tool_choice=choice,
            parallel_tool_calls=False,
            **CHAT,
        ) as stream:
            (streamed,) = stream.get_final_completion().choices[0].message.tool_calls or ()
        assert streamed.function.arguments == call.function.arguments


def chat_tool_result() -> None:
    """A whole round: the call and its result go back with the conversation."""
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'},
    }
    answer = client.chat.completions.create(
        messages=[
            *messages(WEATHER_QUESTION),
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "Sunny."},
        ],
        tools=[TOOL],
        tool_choice="none",
        **CHAT | {"max_tokens": 16},
    )
    assert answer.choices[0].message.content
    assert not answer.choices[0].message.tool_calls


def chat_structured_output() -> None:
    whole = client.chat.completions.parse(
        messages=messages(WEATHER_QUESTION), response_format=Weather, **CHAT
    )
    assert whole.choices[0].message.parsed is not None
    with client.chat.completions.stream(
        messages=messages(WEATHER_QUESTION), response_format=Weather, **CHAT
    ) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == whole.choices[0].message.parsed


def completions() -> None:
    options: dict[str, Any] = {"model": MODEL, "prompt": "One, two,", "max_tokens": 8, "temperature": 0}
    text = client.completions.create(**options).choices[0].text
    assert text
    assert (
        "".join(chunk.choices[0].text for chunk in client.completions.create(stream=True, **options)) == text
    )


def response_and_stream() -> None:
    whole = client.responses.create(input=QUESTION, **RESPONSE)
    assert "Paris" in whole.output_text
    with client.responses.stream(input=QUESTION, **RESPONSE) as stream:
        streamed = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        usage = stream.get_final_response().usage
    assert streamed == whole.output_text
    assert usage is not None
    assert usage == whole.usage
    after = client.responses.create(input="And of Italy?", previous_response_id=whole.id, **RESPONSE)
    assert after.output_text
    client.responses.delete(whole.id)


def response_tools() -> None:
    options: dict[str, Any] = {"tools": [RESPONSE_TOOL], **RESPONSE}
    whole = client.responses.create(
        input=WEATHER_QUESTION, tool_choice="required", parallel_tool_calls=False, **options
    )
    (call,) = whole.output
    assert call.type == "function_call"
    check_weather(call.arguments)
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny."}
    assert client.responses.create(
        input=[result],
        previous_response_id=whole.id,
        tool_choice="none",
        **options | {"max_output_tokens": 16},
    ).output_text


def response_structured_output() -> None:
    assert client.responses.parse(input=WEATHER_QUESTION, text_format=Weather, **RESPONSE).output_parsed


def embeddings() -> None:
    """The client asks for base64 by itself, and decodes it."""
    encoded = client.embeddings.create(model=MODEL, input=["One text", "Another text"])
    floats = client.embeddings.create(model=MODEL, input=["One text"], encoding_format="float")
    assert [len(item.embedding) for item in encoded.data] == [len(floats.data[0].embedding)] * 2
    assert encoded.data[0].embedding != encoded.data[1].embedding
    assert encoded.usage.total_tokens > floats.usage.total_tokens > 0


def models_and_errors() -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL
    options: dict[str, Any] = {"messages": messages(QUESTION), **CHAT}
    create = client.chat.completions.create
    assert refusal(openai.NotFoundError, create, **options | {"model": "none"}).code == "model_not_found"
    assert refusal(openai.BadRequestError, create, **options | {"temperature": 3}).param == "temperature"


run(
    chat_and_stream,
    chat_tools,
    chat_tool_result,
    chat_structured_output,
    completions,
    response_and_stream,
    response_tools,
    response_structured_output,
    embeddings,
    models_and_errors,
)
