"""Stop strings end the raw output, wherever they stand: in reasoning, in the answer, in calls, and across
their edges. Whatever the tokens and however they come, nothing of a stop string reaches the caller.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from fakes import byte_tokenizer, fake_model
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.messages import FinishReason, RequestOutput
from pagewire.v1 import inference_pb2
from server.chat.output_reader import OutputReader
from server.chat.pieces import CallArguments, CallStart, ReasoningText, Text
from server.chat.reasoning import DEEPSEEK_R1, QWEN3, ReasoningFormat
from server.chat.tool_formats import HERMES, LLAMA3_JSON, MISTRAL, PYTHONIC, ToolFormat
from server.choice import Choice
from server.fold import ToolCalls
from server.validation import validate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.generation_request import GenerationRequest

pytestmark = pytest.mark.check("R17", "S25")

TOKENIZER = byte_tokenizer("[TOOL_CALLS]", "[ARGS]", "<think>", "</think>", "<tool_call>", "</tool_call>")
TOOLS = [{"name": "f"}, {"name": "g"}]
OUTPUTS = (
    "<think>let me see.\nab ab</think>\n\nThe answer is ab.",
    '<think>call it</think>Well.\n<tool_call>\n{"name": "f", "arguments": {"a": "ab", "b": 1}}\n</tool_call>',
    '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    '<tool_call>{"arguments": {"x": 1}, "name": "g"}</tool_call>',
    '{"name": "f", "parameters": {"a": "ab"}}; {"name": "g", "parameters": {}}',
    '[TOOL_CALLS][{"name": "f", "arguments": {"a": "ab"}}, {"name": "g"}]',
    '[TOOL_CALLS]f[ARGS]{"a": "ab"}[TOOL_CALLS]g[ARGS]{}',
    '[f(a="ab", b=[1, 2]), g()]',
    "no marks at all, ab",
)
MARKS = ("</think>", "<think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", '{"name"', '"}', ")")
FORMATS = (HERMES, LLAMA3_JSON, MISTRAL, PYTHONIC)


class Read(NamedTuple):
    """What a caller has in the end."""

    text: str
    reasoning: str
    calls: list[tuple[str, str]]


@st.composite
def outputs_with_stops(draw: st.DrawFn) -> tuple[str, tuple[str, ...]]:
    """An output, and stop strings that are often parts of it and lie across its marks."""
    output = draw(st.sampled_from(OUTPUTS))
    start = st.integers(0, len(output) - 1)
    part = start.flatmap(
        lambda at: st.integers(at + 1, min(at + 12, len(output))).map(lambda to: output[at:to])
    )
    near = part.flatmap(lambda text: st.sampled_from((text + "~", text[:-1] + "~")))
    stop = st.one_of(part, near, st.sampled_from(MARKS))
    return output, tuple(draw(st.lists(stop, min_size=1, max_size=4, unique=True)))


def make_request(
    tools: ToolFormat | None,
    reasoning: ReasoningFormat | None,
    stops: Sequence[str],
    keeps_stop: bool = False,
    is_forced: bool = False,
    min_tokens: int = 0,
) -> GenerationRequest:
    model = fake_model(tokenizer=TOKENIZER, tool_format=tools or HERMES, reasoning_format=reasoning)
    chat: dict[str, Any] = {"messages": [{"role": "user", "text": "hi"}], "tools": TOOLS if tools else []}
    if is_forced:
        chat["tool_choice"] = {"mode": "TOOL_CHOICE_MODE_REQUIRED"}
    stopping = {"stop": list(stops), "include_stop_text": keeps_stop, "min_tokens": min_tokens}
    spec = json_format.ParseDict({"chat": chat, "stopping": stopping}, inference_pb2.GenerationSpec())
    return validate(spec, model, 20)


def cut(text: str, stops: Sequence[str], after: int) -> tuple[str, str | None]:
    """The text before the stop string that is complete first behind a place, of those the longest."""
    starts = {stop: text.find(stop, max(0, after + 1 - len(stop))) for stop in stops}
    ends = [(start + len(stop), -len(stop), stop) for stop, start in starts.items() if start >= 0]
    if not ends:
        return text, None
    end, _, stop = min(ends)
    return text[: end - len(stop)], stop


def read(request: GenerationRequest, text: str) -> tuple[Read, OutputReader]:
    """What a text says that comes at once and is all there is."""
    reader = OutputReader(request.output)
    pieces = reader.push(text) + reader.flush()
    calls: list[tuple[str, str]] = []
    for piece in pieces:
        match piece:
            case CallStart(name):
                calls.append((name, ""))
            case CallArguments(arguments):
                calls[-1] = (calls[-1][0], calls[-1][1] + arguments)
    said = "".join(piece.text for piece in pieces if isinstance(piece, Text))
    thought = "".join(piece.text for piece in pieces if isinstance(piece, ReasoningText))
    return Read(said, thought, calls), reader


def stream(request: GenerationRequest, text: str, cuts: Sequence[int]) -> tuple[Read, Choice]:
    """The same, from tokens in steps of any size, taken as deltas after each step."""
    token_ids = TOKENIZER.encode(text, add_special_tokens=False)
    choice = Choice(0, request, TOKENIZER, [])
    said, thought, calls = "", "", ToolCalls()
    bounds = sorted({0, *(at % (len(token_ids) + 1) for at in cuts), len(token_ids)})
    for start, end in itertools.pairwise(bounds):
        is_last = end == len(token_ids)
        reason = FinishReason.LENGTH if is_last else None
        choice.take(RequestOutput("r", token_ids[start:end], finish_reason=reason))
        delta = choice.pop_delta()
        if delta is not None:
            said += delta.text
            thought += delta.reasoning_text
            calls.add(delta.tool_calls)
        if choice.end is not None:
            break
    return Read(said, thought, [(call.name, call.arguments) for call in calls.whole()]), choice


@settings(deadline=None, max_examples=400)
@given(
    case=outputs_with_stops(),
    tools=st.sampled_from(FORMATS) | st.none(),
    reasoning=st.sampled_from((QWEN3, DEEPSEEK_R1)) | st.none(),
    cuts=st.lists(st.integers(0, 200), max_size=30),
    keeps_stop=st.booleans(),
    min_tokens=st.just(0) | st.integers(0, 100),
)
def test_what_is_said_is_what_the_cut_output_says(
    case: tuple[str, tuple[str, ...]],
    tools: ToolFormat | None,
    reasoning: ReasoningFormat | None,
    cuts: list[int],
    keeps_stop: bool,
    min_tokens: int,
) -> None:
    output, stops = case
    request = make_request(tools, reasoning, stops, keeps_stop, min_tokens=min_tokens)
    # Marks that nobody looks for are special tokens, which are no text.
    texts = [
        TOKENIZER.token_bytes(token_id).decode()
        if not TOKENIZER.is_special(token_id)
        or TOKENIZER.token_bytes(token_id).decode() in request.output.marks
        else ""
        for token_id in TOKENIZER.encode(output, add_special_tokens=False)
    ]
    raw = "".join(texts)
    kept, stop = cut(raw, stops, len("".join(texts[:min_tokens])))
    expected, reader = read(request, kept + (stop or "") if keeps_stop else kept)
    said, choice = stream(request, output, cuts)
    assert said == expected
    assert choice.end is not None
    if stop is None:
        assert choice.end.finish_reason == inference_pb2.FINISH_REASON_LENGTH
        return
    assert choice.end.stop_text == stop
    is_whole = bool(expected.calls) and not reader.is_within_call
    assert choice.end.finish_reason == (
        inference_pb2.FINISH_REASON_TOOL_CALLS if is_whole else inference_pb2.FINISH_REASON_STOP
    )
    if is_whole:
        assert all(isinstance(json.loads(arguments), dict) for _, arguments in expected.calls)


@pytest.mark.parametrize(
    ("output", "stop", "expected", "is_call"),
    [
        ("<think>one two three</think>yes", "two", Read("", "one", []), False),
        ("<think>one</think>yes", "</think>", Read("", "one", []), False),
        ("<think>one</think>yes", "e</think>y", Read("", "on", []), False),
        ("<think>one</think>yes no", "no", Read("yes ", "one", []), False),
        ('Well.<tool_call>{"name": "f", "arguments": {"a": "b c"}}</tool_call>', 'c"',
         Read("Well.", "", [("f", '{"a": "b ')]), False),
        ('Well.<tool_call>{"name": "f", "arguments": {}}</tool_call>', "<tool_call>",
         Read("Well.", "", []), False),
        ('Well.<tool_call>{"name": "f", "arguments": {}}</tool_call>', "</tool_call>",
         Read("Well.", "", [("f", "{}")]), True),
        ('<tool_call>{"name": "f", "arguments": {}}</tool_call><tool_call>{"name": "g", "arguments": {"a"',
         '"a"', Read("", "", [("f", "{}"), ("g", "{")]), False),
        ('Well.<tool_call>{"name": "f"', 'name', Read('Well.<tool_call>{"', "", []), False),
    ],
)  # fmt: skip
def test_a_stop_ends_what_it_stands_in(output: str, stop: str, expected: Read, is_call: bool) -> None:
    for cuts in ([], list(range(200))):
        said, choice = stream(make_request(HERMES, QWEN3, [stop]), output, cuts)
        assert said == expected
        assert choice.end is not None
        assert (choice.end.stop_text, choice.end.finish_reason) == (
            stop,
            inference_pb2.FINISH_REASON_TOOL_CALLS if is_call else inference_pb2.FINISH_REASON_STOP,
        )


@pytest.mark.parametrize("stop", ["_call>", "</tool_call>", "\n</", "<tool", "name", '"g"'])
@pytest.mark.parametrize("keeps_stop", [False, True])
def test_a_stop_in_a_mark_of_forced_calls_leaves_no_text(stop: str, keeps_stop: bool) -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    output = f"{call}\n{call.replace('f', 'g')}"
    request = make_request(HERMES, None, [stop], keeps_stop, is_forced=True)
    for cuts in ([], list(range(200))):
        said, choice = stream(request, output, cuts)
        assert (said.text, said.reasoning) == ("", "")
        assert choice.end is not None
        assert choice.end.stop_text == stop
