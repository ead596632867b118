"""What holds for every stream of every route: one end, one id, usage if asked for, nothing after the end.

`told` reads a whole stream and checks it. `said.told_at_once` reads an answer in one piece; where both
succeed, both have said the same.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
from said import (
    COMPLETIONS,
    MESSAGES,
    RESPONSES,
    Event,
    Said,
    Told,
    read_blocks,
    read_choice,
    read_items,
    strict,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_FINISH_REASONS = {"stop", "length", "tool_calls", "function_call", "content_filter"}
_STOP_REASONS = {"end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"}


class LawfulClient(httpx.Client):
    """A client that checks each stream which it reads to its end."""

    def post(self, url: Any, **options: Any) -> httpx.Response:
        """Send, read and check."""
        response = super().post(url, **options)
        kind = response.headers.get("content-type", "")
        body = options.get("json")
        if response.status_code == 200 and kind.startswith("text/event-stream") and body is not None:
            told(response.url.path, body, response.text)
        return response


def told(route: str, body: dict[str, Any], stream: str) -> Told:
    """Read a stream, asserting the law."""
    assert stream.endswith("\n\n"), "the stream ends within a frame"
    if route == RESPONSES:
        return _responses(list(_named(stream)))
    if route == MESSAGES:
        return _messages([event for event in _named(stream) if event["type"] != "ping"])
    return _chunks(route, body, stream)


def _frames(stream: str) -> Iterator[list[str]]:
    for frame in stream.removesuffix("\n\n").split("\n\n"):
        if frame and not frame.startswith(": "):
            yield frame.split("\n")


def _named(stream: str) -> Iterator[Event]:
    """Events that have names: each says its name twice."""
    for lines in _frames(stream):
        name, data = lines
        event = strict(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        yield event


def _same(chunks: list[Event], *names: str) -> None:
    for name in names:
        assert len({chunk[name] for chunk in chunks}) == 1, f"{name} changes"


def _check_error(error: Event) -> None:
    assert isinstance(error["message"], str)
    assert error["message"]
    assert error["type"]


# OpenAI's chunks -----------------------------------------------------------------------------------------


def _chunks(route: str, body: dict[str, Any], stream: str) -> Told:
    data = [line.removeprefix("data: ") for lines in _frames(stream) for line in lines]
    is_done = data[-1] == "[DONE]"
    if is_done:
        data.pop()
    chunks = [strict(text) for text in data]  # a second [DONE] would not be JSON
    result = Told()
    if chunks and "error" in chunks[-1]:
        result.error = chunks.pop()["error"]
        _check_error(result.error)
        assert result.error.keys() == {"message", "type", "param", "code"}
    assert is_done == (result.error is None), "[DONE] exactly if it did not fail"
    if chunks:
        _same(chunks, "id", "object", "created", "model")
    for chunk in chunks:
        for choice in chunk["choices"]:
            _add_delta(result.choices[choice["index"]], choice)
    _check_usage(result, chunks, body.get("stream_options") or {})
    num_choices = (body.get("n") or 1) * _num_prompts(route, body)
    if result.error is None:
        assert sorted(result.choices) == list(range(num_choices))
        assert all(said.finish in _FINISH_REASONS for said in result.choices.values())
    else:
        assert any(result.choices[index].finish is None for index in range(num_choices))
    return result


def _num_prompts(route: str, body: dict[str, Any]) -> int:
    prompt = body.get("prompt")
    several = route == COMPLETIONS and isinstance(prompt, list) and not isinstance(prompt[0], int)
    return len(prompt) if several and prompt else 1


def _add_delta(said: Said, choice: Event) -> None:
    assert said.finish is None, "something follows the finish reason"
    read_choice(said, choice.get("delta", choice))
    said.finish = choice["finish_reason"]


def _check_usage(result: Told, chunks: list[Event], options: dict[str, Any]) -> None:
    last = chunks[-1] if chunks and not chunks[-1]["choices"] else None
    if last is not None:
        assert result.error is None
        result.usage = last["usage"]
    asked = bool(options.get("include_usage"))
    assert (last is not None) == (asked and result.error is None), "a last usage exactly if asked for"
    continuous = asked and bool(options.get("continuous_usage_stats"))
    for chunk in chunks[: len(chunks) - (last is not None)]:
        assert chunk["choices"], "a chunk without choices in the midst"
        assert bool(chunk.get("usage")) == continuous


# Responses -----------------------------------------------------------------------------------------------


def _responses(events: list[Event]) -> Told:
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    assert len({event["response"]["id"] for event in events if "response" in event}) == 1
    ends = {"response.completed", "response.incomplete", "response.failed"}
    assert [event["type"] in ends for event in events] == [False] * (len(events) - 1) + [True]
    last = events[-1]
    result = Told(usage=last["response"]["usage"])
    said = result.choices[0]
    errors = [event for event in events if event["type"] == "error"]
    if last["type"] == "response.failed":
        (error,) = errors
        assert error is events[-2]
        assert error["message"]
        assert last["response"]["error"]["code"]
        result.error = error
    else:
        assert not errors
        assert last["response"]["usage"]
    read_items(said, last["response"])
    _check_deltas(events, "response.output_text", "delta", "text", said.text)
    _check_deltas(events, "response.reasoning_text", "delta", "text", said.reasoning)
    arguments = "".join(call[1] for call in said.calls)
    _check_deltas(events, "response.function_call_arguments", "delta", "arguments", arguments)
    return result


def _check_deltas(events: list[Event], kind: str, delta: str, whole: str, expected: str) -> None:
    """Deltas, what each says in the end, and the response all hold the same."""
    deltas = "".join(event[delta] for event in events if event["type"] == f"{kind}.delta")
    wholes = "".join(event[whole] for event in events if event["type"] == f"{kind}.done")
    assert deltas == wholes == expected


# Anthropic's messages ------------------------------------------------------------------------------------


def _messages(events: list[Event]) -> Told:
    result = Told()
    said = result.choices[0]
    assert events[0]["type"] == "message_start"
    assert [event["type"] for event in events].count("message_start") == 1
    blocks: list[Event] = []
    is_open = False
    for event in events[1:-1]:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(blocks)
                blocks.append({**event["content_block"], "input": ""})
                is_open = True
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(blocks) - 1
                _add_to_block(blocks[-1], event["delta"])
            case "content_block_stop":
                assert is_open
                is_open = False
            case other:
                assert (other, event) == ("message_delta", events[-2])
    if events[-1]["type"] == "error":
        result.error = events[-1]["error"]
        _check_error(result.error)
        assert events[-2]["type"] != "message_delta"
    else:
        assert events[-1]["type"] == "message_stop"
        assert not is_open
        said.finish = events[-2]["delta"]["stop_reason"]
        assert said.finish in _STOP_REASONS
        result.usage = events[-2]["usage"]
    read_blocks(said, blocks)
    if result.error is None:
        for call in said.calls:
            call[1] = json.dumps(strict(call[1] or "{}"))
    return result


def _add_to_block(block: Event, delta: Event) -> None:
    for name in ("text", "thinking"):
        block[name] = block.get(name, "") + delta.get(name, "")
    if "partial_json" in delta:
        block["input"] += delta["partial_json"]
