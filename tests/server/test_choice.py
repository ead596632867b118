"""Choices whose text holds reasoning and tool calls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fakes import byte_tokenizer, fake_model
from google.protobuf import json_format

from engine.messages import FinishReason, RequestOutput
from pagewire.v1 import inference_pb2
from server.chat.reasoning import DEEPSEEK_R1, QWEN3, ReasoningFormat
from server.chat.tool_formats import HERMES, MISTRAL, ToolFormat
from server.choice import Choice
from server.errors import InvalidRequestError
from server.output_format import output_after
from server.validation import validate

END = 256
TOKENIZER = byte_tokenizer("[TOOL_CALLS]", "[ARGS]", "<think>", "</think>", "<spare>")
TOOLS = [{"name": "f"}, {"name": "g"}]
STOP, LENGTH, CALLS = (
    inference_pb2.FINISH_REASON_STOP,
    inference_pb2.FINISH_REASON_LENGTH,
    inference_pb2.FINISH_REASON_TOOL_CALLS,
)


def run(
    text: str,
    tools: ToolFormat = HERMES,
    reasoning: ReasoningFormat | None = None,
    prompt: str = "",
    reason: FinishReason = FinishReason.STOP,
    reasoning_fields: dict[str, Any] | None = None,
    **spec: Any,
) -> tuple[inference_pb2.ChoiceDelta, Choice]:
    """Let a choice take a text, token by token, and return all its deltas as one."""
    model = fake_model(tokenizer=TOKENIZER, tool_format=tools, reasoning_format=reasoning)
    if reasoning_fields is not None:
        spec["reasoning"] = reasoning_fields
    spec["chat"] = {"messages": [{"role": "user", "text": "hi"}]} | spec.get("chat", {})
    request = validate(json_format.ParseDict(spec, inference_pb2.GenerationSpec()), model, 20)
    prompt_ids = TOKENIZER.encode(prompt, add_special_tokens=False)
    request = replace(request, output=output_after(request.output, prompt_ids, TOKENIZER))
    choice = Choice(0, request, TOKENIZER, prompt_ids)
    for token_id in TOKENIZER.encode(text, add_special_tokens=False):
        choice.take(RequestOutput(request_id="r", token_ids=[token_id]))
    last = [END] if reason is FinishReason.STOP else []
    choice.take(RequestOutput(request_id="r", token_ids=last, finish_reason=reason))
    delta = choice.pop_delta()
    assert delta is not None
    return delta, choice


def reason_of(choice: Choice) -> int:
    assert choice.end is not None
    return choice.end.finish_reason


HERMES_CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


def test_calls_have_ids_of_their_own() -> None:
    delta, choice = run(f"Well. {HERMES_CALL}{HERMES_CALL}", chat={"tools": TOOLS})
    first, second = delta.tool_calls
    assert delta.text == "Well."
    assert (first.index, first.name, first.arguments) == (0, "f", '{"a": 1}')
    assert (second.index, second.name, second.arguments) == (1, "f", '{"a": 1}')
    assert first.id != second.id
    assert first.id.startswith("call_")
    assert reason_of(choice) == CALLS


def test_the_last_delta_holds_what_was_held_back() -> None:
    delta, choice = run("a <tool_ca", chat={"tools": TOOLS})
    assert (delta.text, reason_of(choice)) == ("a <tool_ca", STOP)


def test_marks_that_are_special_tokens_are_seen_and_others_dropped() -> None:
    delta, choice = run('<spare>[TOOL_CALLS]f[ARGS]{"a": 1}', MISTRAL, chat={"tools": TOOLS})
    (call,) = delta.tool_calls
    assert (delta.text, call.name, call.arguments) == ("", "f", '{"a": 1}')
    assert len(call.id) == 9
    assert call.id.isalnum()
    assert reason_of(choice) == CALLS
    delta, choice = run("[TOOL_CALLS]x", MISTRAL)
    assert delta.text == "x"


def test_a_length_cut_stays_one_and_a_named_call_is_a_stop() -> None:
    _, choice = run(HERMES_CALL, chat={"tools": TOOLS}, reason=FinishReason.LENGTH)
    assert reason_of(choice) == LENGTH
    named = {"tools": TOOLS, "tool_choice": {"function_name": "f"}}
    delta, choice = run(HERMES_CALL, chat=named)
    assert (len(delta.tool_calls), reason_of(choice)) == (1, STOP)


@pytest.mark.parametrize(
    ("tools", "output"),
    [
        (HERMES, '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n<tool_call>\n{"name": "g'),
        (MISTRAL, '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g'),
    ],
)
def test_calls_that_are_forced_and_cut_anywhere_leave_no_text(tools: ToolFormat, output: str) -> None:
    chat = {"tools": TOOLS, "tool_choice": {"mode": "TOOL_CHOICE_MODE_REQUIRED"}}
    for length in range(1, len(output) + 1):
        delta, choice = run(output[:length], tools, chat=chat, reason=FinishReason.LENGTH)
        assert (delta.text, reason_of(choice)) == ("", LENGTH)
        assert '{"a": 1}'.startswith("".join(call.arguments for call in delta.tool_calls))


def test_without_tools_calls_are_text() -> None:
    delta, choice = run(HERMES_CALL)
    assert (delta.text, reason_of(choice)) == (HERMES_CALL, STOP)
    none = {"tools": TOOLS, "tool_choice": {"mode": "TOOL_CHOICE_MODE_NONE"}}
    assert run(HERMES_CALL, chat=none)[0].text == HERMES_CALL


def test_token_ids_stay_with_their_deltas() -> None:
    delta, _ = run(HERMES_CALL, chat={"tools": TOOLS}, output={"token_ids": True})
    assert delta.num_tokens == len(HERMES_CALL) + 1 == len(delta.token_ids)


@pytest.mark.parametrize(
    ("form", "prompt", "text", "reasoning", "answer", "count"),
    [
        (QWEN3, "", "<think>abc</think>yes", "abc", "yes", 3),
        (QWEN3, "", "<think>\nabc\n</think>\n\nyes", "abc", "yes", 5),
        (QWEN3, "", "yes", "", "yes", 0),
        (QWEN3, "<think>\n", "abc</think>yes", "abc", "yes", 3),
        (QWEN3, "<think>\n\n</think>\n\n", "yes", "", "yes", 0),
        (QWEN3, "<think>", "äb", "äb", "", 3),
        (QWEN3, "", "<think></think>", "", "", 0),
        (DEEPSEEK_R1, "", "abc</think>yes", "abc", "yes", 3),
        (DEEPSEEK_R1, "", "<think>abc</think>yes", "abc", "yes", 3),
    ],
)
def test_reasoning_is_separate_and_counted(
    form: ReasoningFormat, prompt: str, text: str, reasoning: str, answer: str, count: int
) -> None:
    reason = FinishReason.LENGTH
    delta, choice = run(text, reasoning=form, prompt=prompt, reason=reason)
    assert (delta.reasoning_text, delta.text, choice.num_reasoning_tokens) == (reasoning, answer, count)


def test_text_that_may_become_a_stop_does_not_spoil_the_count() -> None:
    delta, choice = run("<think>ax</think>y", reasoning=QWEN3, stopping={"stop": ["x</think>yes"]})
    assert (delta.reasoning_text, delta.text, choice.num_reasoning_tokens) == ("ax", "y", 2)


def test_reasoning_may_be_left_out_or_be_text() -> None:
    text = "<think>\nabc\n</think>\n\nyes"
    delta, choice = run(text, reasoning=QWEN3, reasoning_fields={"exclude": True})
    assert (delta.reasoning_text, delta.text, choice.num_reasoning_tokens) == ("", "yes", 5)
    delta, choice = run(text, reasoning=QWEN3, reasoning_fields={"separate": False})
    assert (delta.reasoning_text, delta.text, choice.num_reasoning_tokens) == ("", text, 5)
    with pytest.raises(InvalidRequestError):
        run(text, reasoning=QWEN3, reasoning_fields={"separate": False, "exclude": True})


def test_tools_are_called_after_reasoning() -> None:
    delta, choice = run(f"<think>a</think>\n{HERMES_CALL}", reasoning=QWEN3, chat={"tools": TOOLS})
    assert (delta.reasoning_text, delta.text, len(delta.tool_calls)) == ("a", "", 1)
    assert reason_of(choice) == CALLS
