"""The real `openai` client against the translator: sync, async, streaming."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import openai
import pytest
from scripted_backend import MODEL, fails, reason, refuses, retry_in, started

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripted_backend import House

MESSAGES: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
def client(house: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{house.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_chat(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert completion.choices[0].message.content == "Hello"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 9
    assert completion.usage.prompt_tokens_details is not None
    assert completion.usage.prompt_tokens_details.cached_tokens == 2


def test_chat_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == "Hello"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert len({chunk.id for chunk in chunks}) == 1


def test_chat_stream_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES) as stream:
        completion = stream.get_final_completion()
    assert completion.choices[0].message.content == "Hello"


async def test_async_chat(house: House) -> None:
    async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key="none", max_retries=0) as client:
        completion = await client.chat.completions.create(model=MODEL, messages=MESSAGES)
        assert completion.choices[0].message.content == "Hello"
        stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
        assert "".join(texts) == "Hello"


def test_completions(client: openai.OpenAI) -> None:
    completion = client.completions.create(model=MODEL, prompt=["a", "b"])
    assert [choice.text for choice in completion.choices] == ["Hello", "Hello"]
    stream = client.completions.create(model=MODEL, prompt="a", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "Hello"


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_errors_have_their_types(client: openai.OpenAI, house: House) -> None:
    violation = refuses(("spec.sampling.temperature", "9 is out of range"))
    house.servicer.script = fails(
        grpc.StatusCode.INVALID_ARGUMENT, "text", reason("INVALID_REQUEST"), violation
    )
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=9)
    assert bad.value.param == "temperature"

    house.servicer.script = fails(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "full", reason("QUEUE_FULL"), retry_in(1)
    )
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model=MODEL, messages=MESSAGES)

    house.servicer.script = fails(
        grpc.StatusCode.UNAVAILABLE, "lost", reason("REQUEST_LOST"), after=(started(),)
    )
    stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="lost"):
        list(stream)
