"""langchain-openai: the chat model over both of its interfaces, the completion model and embeddings."""

from __future__ import annotations

from typing import Any, Literal

import openai
import pydantic
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from scene import MODEL, QUESTION, WEATHER_QUESTION, base_url, check_weather, refusal, run

SERVER: dict[str, Any] = {"model": MODEL, "base_url": f"{base_url()}/v1", "api_key": "none", "max_retries": 0}
CHAT: dict[str, Any] = {"temperature": 0, "max_tokens": 48, "timeout": 120, **SERVER}
MODELS = (
    ChatOpenAI(stream_usage=True, **CHAT),
    ChatOpenAI(use_responses_api=True, **CHAT),
)


class GetWeather(pydantic.BaseModel):
    """The weather of a city."""

    city: Literal["Paris", "Rome"]
    days: int = pydantic.Field(ge=1, le=9)


def chat_and_stream() -> None:
    for model in MODELS:
        whole = model.invoke(QUESTION)
        assert "Paris" in whole.text
        assert whole.usage_metadata is not None
        chunks = list(model.stream(QUESTION))
        assert "".join(chunk.text for chunk in chunks) == whole.text
        (usage,) = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
        assert usage["total_tokens"] == whole.usage_metadata["total_tokens"]


def tools() -> None:
    """A forced call, its result, and the answer after it."""
    for model in MODELS:
        for choice in ("required", "GetWeather"):
            forced = model.bind_tools(
                [GetWeather], tool_choice=choice, parallel_tool_calls=False, strict=True
            )
            called = forced.invoke(WEATHER_QUESTION)
            (call,) = called.tool_calls
            assert call["name"] == "GetWeather"
            check_weather(call["args"])
            chunks = list(forced.stream(WEATHER_QUESTION))
            (streamed,) = sum(chunks[1:], chunks[0]).tool_calls
            assert streamed["args"] == call["args"]
        result = ToolMessage("Sunny.", tool_call_id=call["id"])
        chat: list[BaseMessage] = [HumanMessage(WEATHER_QUESTION), called, result]
        answer = model.bind_tools([GetWeather], tool_choice="none", max_tokens=16).invoke(chat)
        assert isinstance(answer, AIMessage)
        assert answer.text


def structured_output() -> None:
    for model in MODELS:
        for method in ("json_schema", "function_calling"):
            parsed = model.with_structured_output(GetWeather, method=method).invoke(WEATHER_QUESTION)
            assert isinstance(parsed, GetWeather)
    *_, last = MODELS[0].with_structured_output(GetWeather).stream(WEATHER_QUESTION)
    assert isinstance(last, GetWeather)


def completions() -> None:
    model = OpenAI(temperature=0, max_tokens=8, **SERVER)
    text = model.invoke("One, two,")
    assert text
    assert "".join(model.stream("One, two,")) == text


def embeddings() -> None:
    """Lengths are the server's business: otherwise it would fetch a tokenizer of OpenAI's."""
    model = OpenAIEmbeddings(check_embedding_ctx_length=False, **SERVER)
    one, another = model.embed_documents(["One text", "Another text"])
    assert len(one) == len(another) > 0
    assert one != another


def errors() -> None:
    unknown = ChatOpenAI(**CHAT | {"model": "no-such-model"})
    assert "no-such-model" in refusal(openai.NotFoundError, unknown.invoke, QUESTION).message
    assert (
        refusal(openai.BadRequestError, ChatOpenAI(**CHAT | {"top_p": 2}).invoke, QUESTION).param == "top_p"
    )


run(chat_and_stream, tools, structured_output, completions, embeddings, errors)
