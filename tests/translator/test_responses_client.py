"""The real `openai` client and the Responses API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import openai
import pydantic
import pytest
from openai.types.responses import Response
from scripted_backend import MODEL, delta, fails, finished, plays, reason, started

from pagewire.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripted_backend import House

LOOK: Any = {
    "type": "function",
    "name": "look",
    "description": "Looks.",
    "parameters": {"type": "object", "properties": {"at": {"type": "integer"}}},
    "strict": False,
}
CALLS = plays(
    started(),
    delta("", reasoning_text="Hm."),
    delta("", tool_calls=[inference_pb2.ToolCallDelta(id="call_1", name="look", arguments='{"at":')]),
    delta("", tool_calls=[inference_pb2.ToolCallDelta(arguments="1}")]),
    finished(reason=inference_pb2.FINISH_REASON_TOOL_CALLS),
)


class Place(pydantic.BaseModel):
    name: str


@pytest.fixture
def client(house: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{house.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_create_has_every_key_that_the_client_requires(client: openai.OpenAI) -> None:
    raw = client.responses.with_raw_response.create(model=MODEL, input="hi", tools=[LOOK])
    response = Response.model_validate_json(raw.text)
    assert response.output_text == "Hello"
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == 2
    assert response.usage.output_tokens_details.reasoning_tokens == 0
    assert response.usage.total_tokens == 9
    assert response.status == "completed"


def test_stream_helper(client: openai.OpenAI) -> None:
    with client.responses.stream(model=MODEL, input="hi") as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots == ["Hel", "Hello"]
    assert final.output_text == "Hello"
    assert client.responses.retrieve(final.id).output_text == "Hello"


def test_stream_of_calls(client: openai.OpenAI, house: House) -> None:
    house.servicer.script = CALLS
    with client.responses.stream(model=MODEL, input="hi", tools=[LOOK]) as stream:
        final = stream.get_final_response()
    reasoning, call = final.output
    assert reasoning.type == "reasoning"
    assert reasoning.content is not None
    assert reasoning.content[0].text == "Hm."
    assert call.type == "function_call"
    assert (call.call_id, call.name, call.arguments) == ("call_1", "look", '{"at":1}')


def test_every_event_is_one_that_the_client_knows(client: openai.OpenAI, house: House) -> None:
    house.servicer.script = CALLS
    for event in client.responses.create(model=MODEL, input="hi", stream=True):
        type(event).model_validate(event.model_dump(warnings=False))


def test_parse(client: openai.OpenAI, house: House) -> None:
    house.servicer.script = plays(started(), delta('{"name":"Ulm"}'), finished())
    parsed = client.responses.parse(model=MODEL, input="hi", text_format=Place)
    assert parsed.output_parsed == Place(name="Ulm")
    assert '"name"' in house.servicer.specs[-1].constraint.json_schema


def test_a_conversation_of_calls_sent_back_whole(client: openai.OpenAI, house: House) -> None:
    house.servicer.script = CALLS
    first = client.responses.create(model=MODEL, input="hi", tools=[LOOK], store=False)
    history: Any = [
        {"role": "user", "content": "hi"},
        *first.output,
        {"type": "function_call_output", "call_id": "call_1", "output": "42"},
    ]
    house.servicer.script = plays(started(), delta("42."), finished())
    second = client.responses.create(model=MODEL, input=history, tools=[LOOK], store=False)
    assert second.output_text == "42."
    roles = [message.role for message in house.servicer.specs[-1].chat.messages]
    assert roles == ["user", "assistant", "tool"]


def test_stored_responses(client: openai.OpenAI) -> None:
    first = client.responses.create(model=MODEL, input="one")
    second = client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    items = list(client.responses.input_items.list(second.id, order="asc", limit=1))
    assert [item.type for item in items] == ["message", "message", "message"]
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match="not found"):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as bad:
        client.responses.cancel(second.id)
    assert bad.value.message.endswith("Cannot cancel a synchronous response.")


def test_count_of_input_tokens(client: openai.OpenAI) -> None:
    assert client.responses.input_tokens.count(model=MODEL, input="hi", instructions="be").input_tokens == 2


async def test_background(house: House) -> None:
    async with openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key="none", max_retries=0) as client:
        response = await client.responses.create(model=MODEL, input="hi", background=True)
        stream = await client.responses.retrieve(response.id, stream=True)
        last = [event async for event in stream][-1]
        assert last.type == "response.completed"
        assert last.response.id == response.id
        assert (await client.responses.cancel(response.id)).status == "completed"


def test_failures(client: openai.OpenAI, house: House) -> None:
    house.servicer.script = fails(
        grpc.StatusCode.UNAVAILABLE, "lost", reason("REQUEST_LOST"), after=(started(),)
    )
    events = list(client.responses.create(model=MODEL, input="hi", stream=True))
    assert [event.type for event in events[-2:]] == ["error", "response.failed"]
    with pytest.raises(openai.InternalServerError, match="lost"):
        client.responses.create(model=MODEL, input="hi")
