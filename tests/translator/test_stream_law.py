"""Whatever the model server says, each stream has one lawful end and holds what the whole answer holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from said import CHAT, COMPLETIONS, MESSAGES, RESPONSES, told_at_once
from scripted_backend import abort, reason
from stream_law import told

from pagewire.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx
    from scripted_backend import House

pytestmark = pytest.mark.check("R05")

SAID = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": SAID},
    COMPLETIONS: {"prompt": "hi"},
    RESPONSES: {"input": "hi"},
    MESSAGES: {"messages": SAID, "max_tokens": 50},
}
TOOLS: dict[str, Any] = {
    CHAT: {"tools": [{"type": "function", "function": {"name": "f"}}]},
    RESPONSES: {"tools": [{"type": "function", "name": "f"}]},
    MESSAGES: {"tools": [{"name": "f", "input_schema": {}}]},
    COMPLETIONS: {},
}
WITHOUT_CALLS, WITHOUT_REASONING = (COMPLETIONS,), (COMPLETIONS,)
Event = inference_pb2.StreamGenerateResponse
texts = st.text(st.sampled_from('aé\u2028\n\r\0"\\ 😀:{}[]'), max_size=4)
pieces = st.lists(texts, max_size=5)
reasons = st.sampled_from(
    [
        inference_pb2.FINISH_REASON_STOP,
        inference_pb2.FINISH_REASON_LENGTH,
        inference_pb2.FINISH_REASON_TOOL_CALLS,
    ]
)
choices = st.tuples(pieces, pieces, st.integers(0, 2), reasons)
"""Reasoning, text, number of calls, and why it ends."""


def deltas_of(index: int, choice: Any) -> list[inference_pb2.ChoiceDelta]:
    reasoning, text, num_calls, _ = choice
    deltas = [inference_pb2.ChoiceDelta(index=index, reasoning_text=piece) for piece in reasoning]
    deltas += [inference_pb2.ChoiceDelta(index=index, text=piece) for piece in text]
    for call in range(num_calls):
        for given_ in ({"id": f"call_{call}", "name": "f"}, {"arguments": '{"a":'}, {"arguments": " 1}"}):
            one = inference_pb2.ToolCallDelta(index=call, **given_)
            deltas.append(inference_pb2.ChoiceDelta(index=index, tool_calls=[one]))
    for delta in deltas:
        delta.num_tokens = 1
    return deltas


def events_of(given_choices: list[Any], num_together: int) -> list[Event]:
    """The stream of these choices in turns, with so many deltas in each event."""
    queues = [deltas_of(index, choice) for index, choice in enumerate(given_choices)]
    turns = [queue.pop(0) for _ in range(40) for queue in queues if queue]
    events = [Event(started=inference_pb2.Started(model="m", num_prompt_tokens=7))]
    together = [turns[at : at + num_together] for at in range(0, len(turns), num_together)]
    events += [Event(delta=inference_pb2.Delta(choices=some)) for some in together]
    ends = [
        inference_pb2.ChoiceEnd(index=index, finish_reason=choice[3])
        for index, choice in enumerate(given_choices)
    ]
    events.append(Event(finished=inference_pb2.Finished(choices=ends)))
    return events


def play(house: House, events: list[Event], fails_after: int | None = None) -> None:
    async def script(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Event]:
        for event in events[:fails_after]:
            yield event
        if fails_after is not None:
            await abort(context, grpc.StatusCode.UNAVAILABLE, "lost", reason("ENGINE_UNAVAILABLE"))

    house.servicer.script = script


examples = settings(max_examples=40, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("route", BODIES)
@examples
@given(
    given_choices=st.lists(choices, min_size=1, max_size=3),
    num_together=st.integers(1, 4),
    options=st.sampled_from([{}, {"include_usage": True}, {"include_usage": True, "continuous": True}]),
)
def test_a_stream_says_what_the_whole_answer_says(
    http: httpx.Client,
    house: House,
    route: str,
    given_choices: list[Any],
    num_together: int,
    options: dict[str, bool],
) -> None:
    body = BODIES[route] | TOOLS[route]
    streamed = body | {"stream": True}
    if route in (CHAT, COMPLETIONS):
        body["n"] = streamed["n"] = len(given_choices)
        if options:
            streamed["stream_options"] = {
                "include_usage": True,
                "continuous_usage_stats": "continuous" in options,
            }
    else:
        given_choices = given_choices[:1]
    play(house, events_of(given_choices, num_together))
    answer = http.post(route, json=body)
    assert answer.status_code == 200, answer.text
    stream = told(route, streamed, http.post(route, json=streamed).text)
    whole = told_at_once(route, answer.json())
    assert {index: asdict(said) for index, said in stream.choices.items()} == {
        index: asdict(said) for index, said in whole.choices.items()
    }
    if stream.usage is not None:
        assert stream.usage == whole.usage
    for index, (reasoning, text, num_calls, _) in enumerate(given_choices):
        assert whole.choices[index].text == "".join(text)
        if route not in WITHOUT_REASONING:
            assert whole.choices[index].reasoning == "".join(reasoning)
        if route not in WITHOUT_CALLS:
            assert len(whole.choices[index].calls) == num_calls


@pytest.mark.parametrize("route", BODIES)
@examples
@given(
    given_choices=st.lists(choices, min_size=1, max_size=1),
    num_together=st.integers(1, 4),
    share=st.floats(0, 1),
)
def test_a_stream_that_fails_ends_in_an_error_and_nothing_else(
    http: httpx.Client, house: House, route: str, given_choices: list[Any], num_together: int, share: float
) -> None:
    events = events_of(given_choices, num_together)
    play(house, events, fails_after=1 + int(share * (len(events) - 2)))
    body = BODIES[route] | TOOLS[route]
    assert http.post(route, json=body).status_code == 503
    streamed = body | {"stream": True}
    response = http.post(route, json=streamed)
    assert response.status_code == 200
    assert "[DONE]" not in response.text
    stream = told(route, streamed, response.text)
    assert stream.error is not None
    assert stream.error["message"].startswith("lost")
    assert "".join(given_choices[0][1]).startswith(stream.choices[0].text)


@pytest.mark.parametrize("route", BODIES)
def test_what_fails_before_its_first_event_is_a_status(http: httpx.Client, house: House, route: str) -> None:
    play(house, [], fails_after=0)
    response = http.post(route, json=BODIES[route] | {"stream": True})
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/json"


ERROR = 'data: {"error":{"message":"m","type":"t","param":null,"code":null}}\n\n'
DONE = "data: [DONE]\n\n"
LAWLESS = {
    "no end": DONE[:-1],
    "done after an error": ERROR + DONE,
    "done twice": DONE * 2,
    "two errors": ERROR * 2,
}
HEAD = '"object":"o","created":1,"model":"m"'
CHUNK = '{"id":"%s",' + HEAD + ',"choices":[{"index":0,"delta":%s,"finish_reason":%s}]}'


@pytest.mark.parametrize(
    "chunks",
    [
        [("a", '{"content":"x"}', "null")],
        [("a", "{}", '"stop"'), ("a", '{"content":"x"}', "null")],
        [("a", "{}", '"stop"'), ("a", "{}", '"stop"')],
        [("a", '{"content":"x"}', "null"), ("b", "{}", '"stop"')],
        [("a", "{}", '"because"')],
        [],
    ],
    ids=["no finish", "text after it", "two finishes", "two ids", "unknown finish", "nothing"],
)
def test_the_law_can_be_broken(chunks: list[tuple[str, str, str]]) -> None:
    stream = "".join(f"data: {CHUNK % chunk}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    with pytest.raises(AssertionError):
        told(CHAT, BODIES[CHAT], stream)


@pytest.mark.parametrize("name", LAWLESS)
def test_the_law_of_ends_can_be_broken(name: str) -> None:
    with pytest.raises((AssertionError, ValueError, KeyError)):
        told(CHAT, BODIES[CHAT], LAWLESS[name])
