"""Grammars of whole outputs: what they accept is what the readers read, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from fakes import INFO, byte_tokenizer, fake_model
from google.protobuf import json_format
from msgspec.structs import replace as with_fields

from engine.grammar_compiler import GrammarCompiler
from pagewire.v1 import inference_pb2
from server.chat.output_reader import OutputReader
from server.chat.pieces import CallStart
from server.chat.reasoning import DEEPSEEK_R1, QWEN3, ReasoningFormat, Stage
from server.chat.tool_formats import HERMES, LLAMA3_JSON, MISTRAL, PYTHONIC, ToolFormat
from server.errors import InvalidRequestError
from server.output_grammar import output_grammar
from server.validation import validate

if TYPE_CHECKING:
    from server.grammars import Grammar
    from server.served_model import ServedModel

SPECIAL = ("[TOOL_CALLS]", "[ARGS]", "<think>", "</think>", "<|python_tag|>")
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
F = {"name": "f", "parameters_json": json.dumps(SCHEMA)}
G = {"name": "g"}
STRICT = F | {"strict": True}


def model_of(
    tools: ToolFormat = HERMES,
    reasoning: ReasoningFormat | None = None,
    marks: tuple[str, ...] = SPECIAL,
) -> ServedModel:
    tokenizer = byte_tokenizer(*marks)
    return fake_model(
        tokenizer=tokenizer,
        info=with_fields(INFO, vocab_size=tokenizer.vocab_size),
        tool_format=tools,
        reasoning_format=reasoning,
    )


class Outputs:
    """The outputs that a request allows."""

    def __init__(self, model: ServedModel, stage: Stage = Stage.BEFORE, **spec: Any) -> None:
        chat = {"messages": [{"role": "user", "text": "hi"}]} | spec.pop("chat", {})
        message = json_format.ParseDict({"chat": chat} | spec, inference_pb2.GenerationSpec())
        request = validate(message, model, 20)
        self.form = replace(request.output, stage=stage)
        self.grammar: Grammar | None = output_grammar(replace(request, output=self.form), model)
        self._model = model

    def allow(self, text: str) -> bool:
        assert self.grammar is not None
        compiler = GrammarCompiler(self._model.vocabulary, self._model.info.vocab_size)
        matcher, _ = compiler.compile(self.grammar.text)
        token_ids = self._model.tokenizer.encode(text, add_special_tokens=False)
        return bool(matcher.try_consume_tokens(token_ids) == len(token_ids) and matcher.is_accepting())


def forced(*tools: dict[str, Any], **chat: Any) -> dict[str, Any]:
    return {"tools": list(tools), "tool_choice": {"mode": "TOOL_CHOICE_MODE_REQUIRED"}} | chat


HERMES_CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("tools", "marks", "call", "separator"),
    [
        (HERMES, (), HERMES_CALL, "\n"),
        (PYTHONIC, (), HERMES_CALL, "\n"),
        (LLAMA3_JSON, SPECIAL, '{"name": "f", "parameters": {"a": 1}}', "; "),
        (MISTRAL, SPECIAL, '[TOOL_CALLS]f[ARGS]{"a": 1}', ""),
    ],
)
def test_forced_calls_are_what_the_format_reads(
    tools: ToolFormat, marks: tuple[str, ...], call: str, separator: str
) -> None:
    outputs = Outputs(model_of(tools, marks=marks), chat=forced(F, G))
    two = (
        f"{call}{separator}{call.replace('f', 'g', 1).replace('{' + chr(34) + 'a' + chr(34) + ': 1}', '{}')}"
    )
    for text in (call, two):
        assert outputs.allow(text), text
        read = OutputReader(outputs.form)
        pieces = read.push(text) + read.flush()
        assert next(piece.name for piece in pieces if isinstance(piece, CallStart)) == "f"
    assert not outputs.allow("Hello")
    assert not outputs.allow(call.replace('"a": 1', '"a": "x"'))
    assert not outputs.allow(call.replace('{"a": 1}', "{}"))
    assert not outputs.allow(call + " and more")
    single = Outputs(model_of(tools, marks=marks), chat=forced(F, G, parallel_tool_calls=False))
    assert single.allow(call)
    assert not single.allow(two)


def test_mistral_without_its_newer_mark_writes_a_list() -> None:
    outputs = Outputs(model_of(MISTRAL, marks=("[TOOL_CALLS]",)), chat=forced(F))
    assert outputs.allow('[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]')
    assert outputs.allow(
        '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}, {"name": "f", "arguments": {"a": 2}}]'
    )
    assert not outputs.allow('{"name": "f", "arguments": {"a": 1}}')


def test_a_named_function_is_called_once() -> None:
    outputs = Outputs(model_of(), chat={"tools": [F, G], "tool_choice": {"function_name": "f"}})
    assert outputs.allow(HERMES_CALL)
    assert not outputs.allow(f"{HERMES_CALL}\n{HERMES_CALL}")
    assert not outputs.allow('<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>')


def test_forced_calls_have_no_members_that_the_schema_does_not_name() -> None:
    assert not Outputs(model_of(), chat=forced(F)).allow(HERMES_CALL.replace("1}", '1, "b": 2}'))


def test_tools_that_the_model_may_choose_shape_nothing_unless_they_are_strict() -> None:
    assert Outputs(model_of(), chat={"tools": [F, G]}).grammar is None


@pytest.mark.parametrize("marks", [(), ("<tool_call>",)])
def test_strict_tools_leave_text_free(marks: tuple[str, ...]) -> None:
    outputs = Outputs(model_of(marks=marks), chat={"tools": [STRICT, G]})
    assert outputs.allow("Hello <b> {}")
    assert outputs.allow(HERMES_CALL)
    assert outputs.allow(f"Well.\n{HERMES_CALL}\n{HERMES_CALL} done")
    assert outputs.allow('<tool_call>\n{"name": "g", "arguments": {"x": 1}}\n</tool_call>')
    assert not outputs.allow(HERMES_CALL.replace("1", '"1"'))
    assert not outputs.allow("<tool_call>no")


def test_strict_tools_of_other_formats() -> None:
    llama = Outputs(model_of(LLAMA3_JSON), chat={"tools": [STRICT]})
    assert llama.allow("Hello {}")
    assert llama.allow('{"name": "f", "parameters": {"a": 1}}')
    assert not llama.allow('{"name": "f", "parameters": {"a": "1"}}')
    mistral = Outputs(model_of(MISTRAL), chat={"tools": [STRICT]})
    assert mistral.allow("Hello")
    assert mistral.allow('Hello[TOOL_CALLS]f[ARGS]{"a": 1}')
    assert not mistral.allow('Hello[TOOL_CALLS]f[ARGS]{"a": null}')
    with pytest.raises(InvalidRequestError):
        Outputs(model_of(PYTHONIC), chat={"tools": [STRICT]})


def test_a_constraint_leaves_calls_possible() -> None:
    outputs = Outputs(model_of(), chat={"tools": [F]}, constraint={"regex": "[0-9]+"})
    assert outputs.allow("12")
    assert outputs.allow(HERMES_CALL)
    assert not outputs.allow("text")


@pytest.mark.parametrize("marks", [SPECIAL, ()])
def test_a_constraint_holds_after_the_reasoning(marks: tuple[str, ...]) -> None:
    model = model_of(reasoning=QWEN3, marks=marks)
    constraint = {"regex": "[0-9]+"}
    before = Outputs(model, Stage.BEFORE, constraint=constraint)
    assert before.allow("12")
    assert before.allow("<think>hm 1</think>\n\n12")
    assert not before.allow("<think>hm</think>no")
    within = Outputs(model, Stage.WITHIN, constraint=constraint)
    assert within.allow("hm</think>12")
    assert not within.allow("12")
    assert Outputs(model, Stage.AFTER, constraint=constraint).allow("12")
    implied = Outputs(model_of(reasoning=DEEPSEEK_R1, marks=marks), Stage.WITHIN, constraint=constraint)
    assert implied.allow("<think>hm</think>\n12")
    assert implied.allow("hm</think>\n12")


def test_reasoning_is_cut_and_the_answer_free() -> None:
    reasoning = {"reasoning": {"max_tokens": 3}}
    within = Outputs(model_of(reasoning=QWEN3), Stage.WITHIN, **reasoning)
    assert within.allow("abc</think>anything [TOOL_CALLS]")
    assert within.allow("</think>")
    assert not within.allow("abcd</think>")
    before = Outputs(model_of(reasoning=QWEN3), Stage.BEFORE, **reasoning)
    assert before.allow("<think>abc</think>x")
    assert before.allow("an answer")
    assert not before.allow("<think>abcd</think>x")
    none = Outputs(model_of(reasoning=QWEN3), Stage.WITHIN, reasoning={"max_tokens": 0})
    assert none.allow("</think>x")
    assert not none.allow("a</think>x")
    assert Outputs(model_of(reasoning=QWEN3), Stage.AFTER, **reasoning).grammar is None


def test_calls_are_forced_after_the_reasoning() -> None:
    outputs = Outputs(model_of(reasoning=QWEN3), Stage.WITHIN, chat=forced(F), reasoning={"max_tokens": 4})
    assert outputs.allow(f"hm.</think>\n\n{HERMES_CALL}")
    assert not outputs.allow("hm.</think>\n\nno")


def test_the_length_of_reasoning_needs_marks_that_are_tokens() -> None:
    with pytest.raises(InvalidRequestError):
        Outputs(model_of(reasoning=QWEN3, marks=()), reasoning={"max_tokens": 3})
    with pytest.raises(InvalidRequestError):
        Outputs(model_of(), reasoning={"max_tokens": 3})


@pytest.mark.parametrize(
    "spec", [{"chat": forced(F)}, {"chat": {"tools": [STRICT]}}, {"reasoning": {"max_tokens": 3}}]
)
def test_beams_follow_no_grammar(spec: dict[str, Any]) -> None:
    sampling = {"n": 2, "beam_search": {}}
    with pytest.raises(InvalidRequestError) as raised:
        Outputs(model_of(reasoning=QWEN3), sampling=sampling, **spec)
    assert [violation.field for violation in raised.value.violations] == ["spec.sampling.beam_search"]
    assert Outputs(model_of(), sampling=sampling, chat={"tools": [F]}).grammar is None
