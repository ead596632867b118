"""Tool calls and reasoning, read from text however it is cut into pieces."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.chat import hermes, llama3_json, mistral
from server.chat.output_reader import OutputFormat, OutputReader
from server.chat.pieces import CallArguments, CallStart, ReasoningText, Text
from server.chat.reasoning import DEEPSEEK_R1, QWEN3, ReasoningFormat, Stage
from server.chat.tool_formats import HERMES, LLAMA3_JSON, MISTRAL, PYTHONIC, ToolFormat

if TYPE_CHECKING:
    from collections.abc import Iterable

    from server.chat.call_syntax import CallSyntax

pytestmark = pytest.mark.check("S25")

FORMATS = (HERMES, LLAMA3_JSON, MISTRAL, PYTHONIC)
NAMES = frozenset({"f", "g"})
FRAGMENTS = (
    "<tool_call>", "</tool_call>", "<tool", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>",
    "<think>", "</think>", "<|python_start|>", "[", "]", "{", "}", "(", ")", '"name"', ":", ",", ";", '"',
    "'", "\\", "f", "g", "f(a=1)", "=", "1", "tru", " ", "\n", "é", "f{", "g(b='x', c=[True, None])",
    '{"name": "f", "arguments": {"a": [1]}}', '{"name": "g", "parameters": {}}',
    '{"arguments": {"x": "}"}, "name": "f"}',
)  # fmt: skip
texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=20).map("".join)
forms = st.builds(
    OutputFormat,
    tools=st.none() | st.sampled_from(FORMATS),
    tool_names=st.just(NAMES),
    max_calls=st.none() | st.just(1),
    is_forced=st.booleans(),
    reasoning=st.none() | st.sampled_from((QWEN3, DEEPSEEK_R1)),
    stage=st.sampled_from(Stage),
    separates_reasoning=st.booleans(),
)


class Message(NamedTuple):
    text: str
    calls: list[tuple[str, str]]
    reasoning: str = ""


def read(form: OutputFormat, pieces: Iterable[str]) -> Message:
    reader = OutputReader(form)
    read = [one for piece in pieces for one in reader.push(piece)] + reader.flush()
    names = [one.name for one in read if isinstance(one, CallStart)]
    arguments: list[str] = []
    for one in read:
        if isinstance(one, CallStart):
            arguments.append("")
        elif isinstance(one, CallArguments):
            arguments[-1] += one.text
    return Message(
        "".join(one.text for one in read if isinstance(one, Text)),
        list(zip(names, arguments, strict=True)),
        "".join(one.text for one in read if isinstance(one, ReasoningText)),
    )


def calls_in(tools: ToolFormat, text: str, max_calls: int | None = None, is_forced: bool = False) -> Message:
    form = OutputFormat(tools=tools, tool_names=NAMES, max_calls=max_calls, is_forced=is_forced)
    message = read(form, [text])
    assert message == read(form, text), "pieces of one character"
    return message


@settings(deadline=None)
@given(forms, texts, st.data())
def test_pieces_change_nothing(form: OutputFormat, text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = read(form, [text])
    assert read(form, pieces) == whole
    assert read(form, text) == whole


@settings(deadline=None)
@given(st.sampled_from(FORMATS), texts)
def test_text_without_a_call_comes_back_whole(tools: ToolFormat, text: str) -> None:
    message = calls_in(tools, text)
    if not message.calls:
        assert message.text == text


@given(st.text("ab \n<[{(é"), st.text("ab \n<[{(é"))
def test_text_around_a_call_comes_back_but_for_white_space_next_to_it(before: str, after: str) -> None:
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    rest = "" if after.strip() == "<" else after.rstrip()
    assert calls_in(HERMES, f"{before}{call}{after}").text == before.rstrip() + rest
    rest = "" if after.strip() == "[" else after.rstrip()
    assert calls_in(MISTRAL, f"{before}[TOOL_CALLS]f[ARGS]{{}}{after}").text == before.rstrip() + rest


@settings(deadline=None)
@given(st.sampled_from(FORMATS), texts)
def test_arguments_are_the_beginning_of_a_json_object(tools: ToolFormat, text: str) -> None:
    message = calls_in(tools, text)
    for index, (name, arguments) in enumerate(message.calls):
        assert re.fullmatch(r"[a-zA-Z0-9_.-]{1,64}", name)
        if index < len(message.calls) - 1 and tools is not HERMES and tools is not MISTRAL:
            assert isinstance(json.loads(arguments), dict)
        assert not arguments or arguments.startswith("{")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(st.text(), json_values, max_size=3)
calls = st.lists(st.tuples(st.sampled_from(sorted(NAMES)), json_objects), min_size=1, max_size=3)


@settings(max_examples=15, deadline=None)
@given(calls, st.booleans())
def test_json_arguments_are_the_models_own_text(
    calls: list[tuple[str, dict[str, object]]], ascii_: bool
) -> None:
    expected = [(name, json.dumps(arguments, ensure_ascii=ascii_)) for name, arguments in calls]
    hermes = "\n".join(
        f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
        for name, arguments in expected
    )
    assert calls_in(HERMES, f"Well.\n{hermes}\n") == Message("Well.", expected)
    llama = "; ".join(f'{{"name": "{name}", "parameters": {arguments}}}' for name, arguments in expected)
    assert calls_in(LLAMA3_JSON, llama) == Message("", expected)
    assert calls_in(LLAMA3_JSON, f"<|python_tag|>{llama}") == Message("", expected)
    listed = ", ".join(f'{{"name": "{name}", "arguments": {arguments}}}' for name, arguments in expected)
    assert calls_in(MISTRAL, f"Well. [TOOL_CALLS] [{listed}]") == Message("Well.", expected)
    named = "".join(f"[TOOL_CALLS]{name}[ARGS]{arguments}" for name, arguments in expected)
    assert calls_in(MISTRAL, named) == Message("", expected)
    named = "".join(f"[TOOL_CALLS]{name}[CALL_ID]a1[ARGS]{arguments}" for name, arguments in expected)
    assert calls_in(MISTRAL, named) == Message("", expected)


SYNTAXES = [
    (HERMES, hermes.SYNTAX),
    (LLAMA3_JSON, llama3_json.SYNTAX),
    (MISTRAL, mistral.LIST_SYNTAX),
    (MISTRAL, mistral.NAMED_SYNTAX),
]


@pytest.mark.parametrize(("tools", "syntax"), SYNTAXES)
@settings(max_examples=10, deadline=None)
@given(calls, st.sampled_from(("", "\n\n")))
def test_forced_calls_that_are_cut_anywhere_leave_no_text(
    tools: ToolFormat, syntax: CallSyntax, calls: list[tuple[str, dict[str, object]]], space: str
) -> None:
    whole = [(name, json.dumps(arguments)) for name, arguments in calls]
    written = syntax.separator.join(
        f"{syntax.prefix}{name}{syntax.middle}{arguments}{syntax.suffix}" for name, arguments in whole
    )
    output = f"{space}{syntax.opening}{written}{syntax.closing}"
    for length in range(len(output) + 1):
        message = calls_in(tools, output[:length], is_forced=True)
        assert message.text == ""
        *before, last = message.calls or [("", "")]
        assert before == whole[: len(before)]
        assert not last[0] or last[0] == whole[len(before)][0]
        assert whole[len(before)][1].startswith(last[1])
    assert calls_in(tools, output, is_forced=True).calls == whole


FREE_CALLS = [
    (HERMES, '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n'
             '<tool_call>{"arguments": {"b": 2}, "id": "x", "name": "g"} </tool_call>'),
    (LLAMA3_JSON, '{"name": "f", "parameters": {"a": 1}}; {"name": "g"}<|python_tag|>{"name": "f"}'),
    (LLAMA3_JSON, '<|python_tag|>{"name": "f", "parameters": {"a": 1}}; {"name": "g"}'),
    (MISTRAL, '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}] '),
    (MISTRAL, '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[CALL_ID]a1[ARGS]{"b": 2}'),
    (PYTHONIC, "<|python_start|>[f(a=1, b='x'), g(c=[True, None])] <|python_end|>"),
]  # fmt: skip


@pytest.mark.parametrize(("tools", "output"), FREE_CALLS)
def test_calls_that_are_cut_leave_text_only_where_none_had_begun(tools: ToolFormat, output: str) -> None:
    for length in range(len(output) + 1):
        message = calls_in(tools, output[:length])
        assert message.text == ("" if message.calls else output[:length])
    assert len(calls_in(tools, output).calls) >= 2


@pytest.mark.parametrize(
    ("tools", "output", "text"),
    [
        (HERMES, '<tool_call>{"name": "f"}</tool_call>So a <tool', "So a <tool"),
        (HERMES, '<tool_call>{"name": "f"}</tool_call>\n<<tool', "\n<<tool"),
        (HERMES, '<tool_call>{"name": "f"}</tools', "</tools"),
        (HERMES, 'Well. <tool_call>{"name": "f"}</tool_call> <tool_call>{"na', "Well."),
        (HERMES, '<tool_call>{"name": "f", "arguments": {"a": tru<', "<"),
        (LLAMA3_JSON, '{"name": "f"}; so', "; so"),
        (MISTRAL, '[TOOL_CALLS][{"name": "f"}] [TOOL_BOX]', " [TOOL_BOX]"),
        (MISTRAL, "[TOOL_CALLS]f{} or [TOOL", " or [TOOL"),
        (PYTHONIC, "[f()] <|python_stop", "<|python_stop"),
    ],
)
def test_text_after_a_call_is_kept_whatever_it_ends_with(tools: ToolFormat, output: str, text: str) -> None:
    assert calls_in(tools, output).text == text


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(NAMES)), st.dictionaries(st.sampled_from("abc"), json_values)),
        min_size=1,
    )
)
def test_pythonic_arguments_become_json(calls: list[tuple[str, dict[str, object]]]) -> None:
    written = ", ".join(
        f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
        for name, arguments in calls
    )
    message = calls_in(PYTHONIC, f"[{written}]")
    assert message.text == ""
    assert [(name, json.loads(arguments)) for name, arguments in message.calls] == calls


@pytest.mark.parametrize(
    ("tools", "text"),
    [
        (HERMES, "<tool_call>\nno JSON\n</tool_call>"),
        (HERMES, '<tool_call>{"arguments": {}}</tool_call>'),
        (HERMES, '<tool_call>{"name": "a b", "arguments": {}}</tool_call>'),
        (HERMES, '<tool_call>{"name": "f", "arguments": "text"}</tool_call>'),
        (HERMES, '<tool_call>{"name": "f", "argu'),
        (LLAMA3_JSON, '{"name": "unknown", "parameters": {}}'),
        (LLAMA3_JSON, '{"answer": 1}'),
        (LLAMA3_JSON, '<|python_tag|>print("x")'),
        (LLAMA3_JSON, 'Say {"name": "f", "parameters": {}}'),
        (MISTRAL, "[TOOL_CALLS]"),
        (MISTRAL, "[TOOL_CALLS]f then"),
        (MISTRAL, '[TOOL_CALLS][{"name": 1}]'),
        (PYTHONIC, "[1, 2]"),
        (PYTHONIC, "[unknown(a=1)]"),
        (PYTHONIC, "[f(1)]"),
        (PYTHONIC, "[f(a=g(1))]"),
        (PYTHONIC, "[f(a=1"),
    ],
)  # fmt: skip
def test_a_malformed_call_is_text(tools: ToolFormat, text: str) -> None:
    assert calls_in(tools, text) == Message(text, [])


@pytest.mark.parametrize(
    ("tools", "text", "expected"),
    [
        (HERMES, '<tool_call>{"name":"f","arguments":{"a":tru}}', Message("}}", [("f", '{"a":tru')])),
        (HERMES, '<tool_call>{"name":"f","arguments":{"a": "cut', Message("", [("f", '{"a": "cut')])),
        (PYTHONIC, "[f(a=1), 2]", Message(", 2]", [("f", '{"a": 1}')])),
    ],
)  # fmt: skip
def test_a_call_that_goes_wrong_keeps_what_was_sent(tools: ToolFormat, text: str, expected: Message) -> None:
    assert calls_in(tools, text) == expected


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('<tool_call>{"name": "f"}</tool_call>', "{}"),
        ('<tool_call>{"arguments": {"a": 1}, "id": "x", "name": "f"}</tool_call>', '{"a": 1}'),
        ('<tool_call>{"name": "f", "parameters": {}, "extra": [null]}</tool_call>', "{}"),
    ],
)
def test_members_of_a_call_may_come_in_any_order(text: str, arguments: str) -> None:
    assert calls_in(HERMES, text) == Message("", [("f", arguments)])


def test_arguments_stream_as_they_come() -> None:
    reader = OutputReader(OutputFormat(tools=HERMES, tool_names=NAMES))
    assert reader.push('<tool_call>{"name": "f", ') == []
    assert reader.push('"arguments": {"a') == [CallStart("f"), CallArguments('{"a')]
    assert reader.push('": 1') == [CallArguments('": 1')]
    assert reader.push("}}</tool") == [CallArguments("}")]
    assert reader.push("_call>") + reader.flush() == []


def test_without_parallel_calls_only_the_first_counts() -> None:
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    assert calls_in(HERMES, f"a {call}{call} b", max_calls=1) == Message("a b", [("f", "{}")])


@pytest.mark.parametrize(
    ("form", "stage", "text", "reasoning", "answer"),
    [
        (QWEN3, Stage.BEFORE, "<think>\nhm\n</think>\n\nyes", "hm", "yes"),
        (QWEN3, Stage.BEFORE, "yes", "", "yes"),
        (QWEN3, Stage.BEFORE, "  <thi", "", "  <thi"),
        (QWEN3, Stage.WITHIN, "\nhm </think> yes", "hm", "yes"),
        (QWEN3, Stage.WITHIN, "<think>hm</think>yes", "hm", "yes"),
        (QWEN3, Stage.AFTER, "a </think> b", "", "a </think> b"),
        (DEEPSEEK_R1, Stage.WITHIN, "cut in </thi", "cut in </thi", ""),
    ],
)  # fmt: skip
def test_reasoning(form: ReasoningFormat, stage: Stage, text: str, reasoning: str, answer: str) -> None:
    assert read(OutputFormat(reasoning=form, stage=stage), text) == Message(answer, [], reasoning)
    merged = OutputFormat(reasoning=form, stage=stage, separates_reasoning=False)
    assert read(merged, text) == Message(text, [])


def test_tools_are_called_after_the_reasoning_only() -> None:
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    form = OutputFormat(tools=HERMES, tool_names=NAMES, reasoning=QWEN3)
    message = read(form, f"<think>perhaps {call}</think>\n{call}")
    assert message == Message("", [("f", "{}")], f"perhaps {call}")


@pytest.mark.parametrize("tools", FORMATS)
@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "',
        "[TOOL_CALLS][",
        "[f(a=[",
        "{",
        '{"name": "f", "parameters": {"a":[',
        "<|python_tag|>",
        "f(a='",
    ],
)
def test_the_work_is_linear_in_hostile_text(tools: ToolFormat, text: str) -> None:
    check_linear(OutputFormat(tools=tools, tool_names=NAMES), text)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("text", ["<think>", "</think>", "</thi", "<", " ", "<think></think>"])
@pytest.mark.parametrize("form", [QWEN3, DEEPSEEK_R1])
def test_the_work_is_linear_in_hostile_reasoning(form: ReasoningFormat, text: str, stage: Stage) -> None:
    check_linear(OutputFormat(reasoning=form, stage=stage), text)


def check_linear(form: OutputFormat, text: str) -> None:
    """Four times the text may cost five times the calls."""

    def num_calls(length: int) -> int:
        events: list[str] = []
        hostile = text * (length // len(text))
        sys.setprofile(lambda frame, event, argument: events.append(event))
        try:
            read(form, hostile)
        finally:
            sys.setprofile(None)
        return len(events)

    assert num_calls(8_000) < 5 * num_calls(2_000)
