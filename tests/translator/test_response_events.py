"""The events of a Responses stream: whatever the model server sends, their order and their sum are right."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagewire.v1 import inference_pb2
from translator.errors import ApiError
from translator.logprobs import TokenNames
from translator.response_events import ResponseWriter
from translator.response_items import ItemIds
from translator.response_object import new_body
from translator.response_request import ResponseRequest
from translator.response_tools import Tool, parse_tools

if TYPE_CHECKING:
    from collections.abc import Iterator

Events = list[dict[str, Any]]

REASONS = (
    inference_pb2.FINISH_REASON_STOP,
    inference_pb2.FINISH_REASON_LENGTH,
    inference_pb2.FINISH_REASON_TOOL_CALLS,
)
TOOLBOX = parse_tools(
    [
        Tool(type="function", name="look"),
        Tool(type="namespace", name="web", tools=[Tool(type="function", name="look")]),
        Tool(type="web_search"),
    ]
)


def make_writer(*, seals_reasoning: bool = False) -> ResponseWriter:
    body = new_body("resp_1", ResponseRequest(input="hi"), TOOLBOX, is_stored=True)
    return ResponseWriter(
        body, ItemIds("resp_1"), TOOLBOX, seals_reasoning=seals_reasoning, names=TokenNames(False)
    )


def started() -> inference_pb2.Started:
    return inference_pb2.Started(model="m", num_prompt_tokens=5, num_cached_tokens=4)


def finished(reason: inference_pb2.FinishReason.ValueType) -> inference_pb2.Finished:
    return inference_pb2.Finished(choices=[inference_pb2.ChoiceEnd(finish_reason=reason)])


def call(index: int, name: str = "", arguments: str = "") -> inference_pb2.ToolCallDelta:
    return inference_pb2.ToolCallDelta(
        index=index, id=f"call_{index}" if name else "", name=name, arguments=arguments
    )


def token(token_id: int) -> inference_pb2.TokenLogprob:
    return inference_pb2.TokenLogprob(token_id=token_id, logprob=-0.5, token_bytes=b"x")


def play(
    writer: ResponseWriter,
    deltas: list[inference_pb2.ChoiceDelta],
    end: inference_pb2.FinishReason.ValueType | ApiError | None,
) -> Events:
    """All events of a response. `end` None cancels it."""

    def events() -> Iterator[dict[str, Any]]:
        yield from writer.create()
        writer.start(started())
        yield from writer.begin()
        for delta in deltas:
            yield from writer.add(delta)
        if end is None:
            yield from writer.cancel()
        elif isinstance(end, ApiError):
            yield from writer.fail(end)
        else:
            yield from writer.finish(finished(end))

    return [copy.deepcopy(event) for event in events()]


class Reader:
    """A client that trusts nothing: it checks the order of events and adds them up."""

    def __init__(self) -> None:
        self.output: list[dict[str, Any]] = []
        self.open: dict[str, Any] | None = None
        self.pieces: list[str] = []
        self.logprobs: list[Any] = []
        self.has_part = False

    def read(self, event: dict[str, Any]) -> None:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert self.open is None
            assert event["output_index"] == len(self.output)
            assert event["item"]["status"] == "in_progress"
            self.open, self.pieces, self.logprobs, self.has_part = event["item"], [], [], False
            self.output.append(self.open)
            return
        assert self.open is not None
        assert event["output_index"] == len(self.output) - 1
        if kind == "output_item.done":
            self._close(event["item"])
            return
        assert event["item_id"] == self.open["id"]
        if kind == "content_part.added":
            assert not self.has_part
            self.has_part = True
        elif kind.endswith(".delta"):
            self.pieces.append(event["delta"])
            self.logprobs += event.get("logprobs", [])
        elif kind == "content_part.done":
            assert event["part"]["text"] == "".join(self.pieces)
        else:
            assert event["arguments" if "arguments" in kind else "text"] == "".join(self.pieces)
        if self.open["type"] != "function_call":
            assert event["content_index"] == 0
            assert self.has_part

    def _close(self, item: dict[str, Any]) -> None:
        assert self.open is not None
        assert item["id"] == self.open["id"]
        assert item["status"] in ("completed", "incomplete")
        text = "".join(self.pieces)
        if item["type"] == "function_call":
            assert item["arguments"] == text
        else:
            (part,) = item["content"]
            assert part["text"] == text
            assert part.get("logprobs", []) == self.logprobs
        self.output[-1] = item
        self.open = None


# Kind, text and whether there are log probabilities.
pieces = st.tuples(
    st.sampled_from(["reasoning", "text", "both", "none", "call", "more"]),
    st.sampled_from(["a", "bc", "\u2028", "{"]),
    st.booleans(),
)


def make_deltas(parts: list[tuple[str, str, bool]]) -> list[inference_pb2.ChoiceDelta]:
    """Deltas of every mixture; only a call's fragments stay together."""
    deltas: list[inference_pb2.ChoiceDelta] = []
    num_calls = 0
    is_calling = False
    for kind, text, has_logprobs in parts:
        delta = inference_pb2.ChoiceDelta(num_tokens=1)
        if kind in ("reasoning", "both"):
            delta.reasoning_text = text
        if kind in ("text", "both"):
            delta.text = text
        if kind == "call" or (kind == "more" and not is_calling):
            delta.tool_calls.append(call(num_calls, "look"))
            num_calls += 1
        elif kind == "more":
            delta.tool_calls.append(call(num_calls - 1, arguments=text))
        is_calling = kind in ("call", "more")
        if has_logprobs:
            delta.logprobs.append(token(7))
        deltas.append(delta)
    return deltas


outputs = st.lists(pieces, max_size=12).map(make_deltas)
ends = st.one_of(st.sampled_from(REASONS), st.just(ApiError(503, "gone", code="request_lost")), st.none())


@given(outputs, ends)
def test_any_output_is_a_well_formed_stream_that_adds_up_to_the_response(
    deltas: list[inference_pb2.ChoiceDelta], end: Any
) -> None:
    writer = make_writer()
    events = play(writer, deltas, end)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    middle, last = events[2:-1], events[-1]
    if isinstance(end, ApiError):
        assert middle.pop()["type"] == "error"
    reader = Reader()
    for event in middle:
        reader.read(event)
    assert reader.open is None
    assert reader.output == writer.body["output"]
    if end is None:
        assert (last["type"], last["code"]) == ("error", "cancelled")
    else:
        assert last["type"] == f"response.{writer.body['status']}"
        assert last["response"] == writer.body
    for event in events:
        if "response" in event:
            assert event["response"]["id"] == "resp_1"
    ids = [item["id"] for item in writer.body["output"]]
    assert len(ids) == len(set(ids))


@given(outputs, st.sampled_from(REASONS))
def test_nothing_is_lost(
    deltas: list[inference_pb2.ChoiceDelta], end: inference_pb2.FinishReason.ValueType
) -> None:
    writer = make_writer()
    play(writer, deltas, end)
    output = writer.body["output"]

    def text(kind: str) -> str:
        return "".join(part["text"] for item in output if item["type"] == kind for part in item["content"])

    assert text("message") == "".join(delta.text for delta in deltas)
    assert text("reasoning") == "".join(delta.reasoning_text for delta in deltas)
    arguments = [item["arguments"] for item in output if item["type"] == "function_call"]
    assert "".join(arguments) == "".join(one.arguments for delta in deltas for one in delta.tool_calls)
    assert writer.body["usage"]["output_tokens"] == sum(delta.num_tokens for delta in deltas)


class TestEnds:
    def test_a_cut_answer_is_incomplete(self) -> None:
        writer = make_writer()
        deltas = [
            inference_pb2.ChoiceDelta(reasoning_text="hm", num_tokens=1),
            inference_pb2.ChoiceDelta(text="so", num_tokens=1),
        ]
        play(writer, deltas, inference_pb2.FINISH_REASON_LENGTH)
        body = writer.body
        assert body["status"] == "incomplete"
        assert body["incomplete_details"] == {"reason": "max_output_tokens"}
        assert [item["status"] for item in body["output"]] == ["completed", "incomplete"]
        assert body["completed_at"] is None

    def test_an_empty_answer_has_an_empty_message(self) -> None:
        writer = make_writer()
        play(writer, [], inference_pb2.FINISH_REASON_STOP)
        (message,) = writer.body["output"]
        assert message["content"] == [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]

    def test_a_failure_says_why(self) -> None:
        writer = make_writer()
        deltas = [inference_pb2.ChoiceDelta(text="so", num_tokens=1)]
        events = play(writer, deltas, ApiError(503, "gone", code="request_lost"))
        assert [event["type"] for event in events[-3:]] == [
            "response.output_item.done",
            "error",
            "response.failed",
        ]
        assert events[-2] | {"sequence_number": 0} == {
            "type": "error",
            "sequence_number": 0,
            "code": "request_lost",
            "message": "gone",
            "param": None,
        }
        assert writer.body["error"] == {"code": "server_error", "message": "gone"}
        assert writer.body["output"][0]["status"] == "incomplete"


class TestLogprobs:
    def test_those_of_held_text_come_with_it(self) -> None:
        writer = make_writer()
        deltas = [
            inference_pb2.ChoiceDelta(num_tokens=1, logprobs=[token(1)]),
            inference_pb2.ChoiceDelta(num_tokens=1, logprobs=[token(2)], text="ab"),
            inference_pb2.ChoiceDelta(num_tokens=1, logprobs=[token(3)]),
        ]
        events = play(writer, deltas, inference_pb2.FINISH_REASON_STOP)
        counts = [len(event["logprobs"]) for event in events if event["type"].endswith("text.delta")]
        assert counts == [2, 1]
        assert len(writer.body["output"][0]["content"][0]["logprobs"]) == 3

    def test_those_of_reasoning_are_not_the_texts(self) -> None:
        writer = make_writer()
        deltas = [
            inference_pb2.ChoiceDelta(num_tokens=1, logprobs=[token(1)], reasoning_text="a"),
            inference_pb2.ChoiceDelta(num_tokens=1, logprobs=[token(2)], text="b"),
        ]
        play(writer, deltas, inference_pb2.FINISH_REASON_STOP)
        assert len(writer.body["output"][1]["content"][0]["logprobs"]) == 1


class TestCalls:
    def test_a_function_of_a_namespace_gets_both_names_back(self) -> None:
        writer = make_writer()
        delta = inference_pb2.ChoiceDelta(
            tool_calls=[call(0, "web__look", "{"), call(0, arguments="}"), call(1, "look", "{}")]
        )
        play(writer, [delta], inference_pb2.FINISH_REASON_TOOL_CALLS)
        first, second = writer.body["output"]
        assert (first["namespace"], first["name"], first["arguments"]) == ("web", "look", "{}")
        assert "namespace" not in second
        assert first["call_id"] == "call_0"
        assert [item["status"] for item in writer.body["output"]] == ["completed", "completed"]

    @pytest.mark.parametrize("end", [*REASONS, ApiError(503, "gone"), None])
    @pytest.mark.parametrize(("arguments", "status"), [('{"at":1}', "completed"), ('{"at":', "incomplete")])
    def test_a_call_is_incomplete_if_it_was_cut(self, end: Any, arguments: str, status: str) -> None:
        writer = make_writer()
        delta = inference_pb2.ChoiceDelta(tool_calls=[call(0, "look", "{}"), call(1, "look", arguments)])
        events = play(writer, [delta], end)
        assert [item["status"] for item in writer.body["output"]] == ["completed", status]
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert done == writer.body["output"]

    def test_a_call_that_goes_wrong_is_incomplete(self) -> None:
        writer = make_writer()
        deltas = [
            inference_pb2.ChoiceDelta(tool_calls=[call(0, "look", '{"at":')]),
            inference_pb2.ChoiceDelta(text="or not"),
        ]
        play(writer, deltas, inference_pb2.FINISH_REASON_STOP)
        assert [item["status"] for item in writer.body["output"]] == ["incomplete", "completed"]

    def test_a_call_that_goes_on_after_its_end_is_a_fault(self) -> None:
        writer = make_writer()
        deltas = [
            inference_pb2.ChoiceDelta(tool_calls=[call(0, "look", "{")]),
            inference_pb2.ChoiceDelta(text="so"),
            inference_pb2.ChoiceDelta(tool_calls=[call(0, arguments="}")]),
        ]
        with pytest.raises(ApiError) as fault:
            play(writer, deltas, inference_pb2.FINISH_REASON_STOP)
        assert fault.value.status == 500
