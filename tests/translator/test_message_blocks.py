"""The order of an answer's blocks, for any deltas that the server may send."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pagewire.v1 import inference_pb2
from translator.message_blocks import Added, BlockEvent, BlockOrder, Closed, Opened
from translator.messages import fold_blocks


@st.composite
def deltas(draw: st.DrawFn) -> list[inference_pb2.ChoiceDelta]:
    """Runs of reasoning, text and calls, cut into deltas at random; calls come one after another."""
    result = []
    next_call = 0
    for kind in draw(st.lists(st.sampled_from(["reasoning", "text", "call", "nothing"]), max_size=8)):
        pieces = draw(st.lists(st.text(max_size=3), min_size=1, max_size=3))
        if kind == "reasoning":
            result += [inference_pb2.ChoiceDelta(reasoning_text=piece) for piece in pieces]
        elif kind == "text":
            result += [inference_pb2.ChoiceDelta(text=piece) for piece in pieces]
        elif kind == "nothing":
            result.append(inference_pb2.ChoiceDelta())
        else:
            arguments = json.dumps({"a": "".join(pieces)})
            cut = draw(st.integers(0, len(arguments)))
            head = inference_pb2.ToolCallDelta(
                index=next_call, id=f"id{next_call}", name="f", arguments=arguments[:cut]
            )
            tail = inference_pb2.ToolCallDelta(index=next_call, arguments=arguments[cut:])
            parts = [[head, tail]] if draw(st.booleans()) else [[head], [tail]]
            result += [inference_pb2.ChoiceDelta(tool_calls=part) for part in parts]
            next_call += 1
    return result


def events_of(deltas: list[inference_pb2.ChoiceDelta]) -> list[BlockEvent]:
    order = BlockOrder()
    events = [event for delta in deltas for event in order.add(delta)]
    return [*events, *order.end()]


@given(deltas())
def test_blocks_open_fill_and_close_in_turn(deltas: list[inference_pb2.ChoiceDelta]) -> None:
    is_open, num_opened = False, 0
    for event in events_of(deltas):
        match event:
            case Opened():
                assert not is_open
                assert event.index == num_opened
                is_open, num_opened = True, num_opened + 1
            case Added():
                assert is_open
                assert event.index == num_opened - 1
                assert event.text
            case Closed():
                assert is_open
                assert event.index == num_opened - 1
                is_open = False
    assert not is_open


@given(deltas())
def test_nothing_is_lost(deltas: list[inference_pb2.ChoiceDelta]) -> None:
    content: list[dict[str, Any]] = []
    fold_blocks(content, events_of(deltas))
    texts = "".join(block["text"] for block in content if block["type"] == "text")
    assert texts == "".join(delta.text for delta in deltas)
    thoughts = "".join(block["thinking"] for block in content if block["type"] == "thinking")
    assert thoughts == "".join(delta.reasoning_text for delta in deltas)
    calls = [block for block in content if block["type"] == "tool_use"]
    fragments = [fragment for delta in deltas for fragment in delta.tool_calls]
    assert [call["id"] for call in calls] == [fragment.id for fragment in fragments if fragment.id]
    for index, call in enumerate(calls):
        text = "".join(fragment.arguments for fragment in fragments if fragment.index == index)
        assert call["input"] == json.loads(text)


def test_only_nothing_makes_no_block() -> None:
    assert events_of([inference_pb2.ChoiceDelta(num_tokens=1)]) == []
