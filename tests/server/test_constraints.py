"""From the contract's constraints to grammars, and what is refused by name."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schema_set import ENDLESS, REFUSED, SCHEMAS

from engine.grammar_compiler import GrammarCompiler, GrammarError
from engine.messages import Vocabulary
from pagewire.v1 import inference_pb2
from server.constraints import parse_constraint
from server.errors import InvalidRequestError
from server.fields import Fields
from server.grammar_worker import compile_text

if TYPE_CHECKING:
    from server.grammars import Grammar

END = 256
COMPILER = GrammarCompiler(Vocabulary([bytes([i]) for i in range(256)] + [b"<end>"], [END], [END]), 257)


def parse(constraint: inference_pb2.Constraint) -> Grammar:
    fields = Fields()
    grammar = parse_constraint(fields, constraint)
    fields.check()
    assert grammar is not None
    return grammar


def constraint_of(**fields: Any) -> inference_pb2.Constraint:
    return json_format.ParseDict(fields, inference_pb2.Constraint())


def accepts(constraint: inference_pb2.Constraint, text: str) -> bool:
    """Whether the grammar compiles and the text derives from it."""
    compiled = compile_text(COMPILER, parse(constraint).text)
    assert not compiled.error, compiled.error
    matcher, mask = COMPILER.compile(compiled.text)
    rest: bytes | None = mask
    for byte in text.encode():
        if rest is None or not rest[byte // 8] >> (byte % 8) & 1:
            return False
        rest = COMPILER.advance(matcher, byte)
    return matcher.is_accepting()


def refused(constraint: inference_pb2.Constraint) -> list[str]:
    """Paths of the refused fields."""
    with pytest.raises(InvalidRequestError) as raised:
        parse(constraint)
    return [
        violation.field.removeprefix("spec.constraint").lstrip(".") for violation in raised.value.violations
    ]


def problem(constraint: inference_pb2.Constraint) -> str:
    """Why a grammar is refused, by us or by the compiler."""
    try:
        return compile_text(COMPILER, parse(constraint).text).error
    except InvalidRequestError as error:
        return str(error)


def json_schema(schema: Any, **style: Any) -> inference_pb2.Constraint:
    return constraint_of(json_schema=json.dumps(schema), **({"json_style": style} if style else {}))


POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        (constraint_of(json_object=True), ['{"a": [1, null]}', "{}"], ["[]", "1", "{} "]),
        (json_schema(POINT), ['{"x": 1}', '{\n  "x": 1,\n "y": 2}'], ['{"y": 1}', '{"x": 1', '{\n\n"x":1}']),
        (json_schema(True), ["1", "[]", '"a"'], ["a"]),
        (json_schema(POINT, compact=True), ['{"x":1}'], ['{"x": 1}']),
        (json_schema(POINT, whitespace_pattern=" ?"), ['{ "x" : 1 }'], ['{\n"x":1}', '{  "x":1}']),
        (json_schema(POINT, whitespace_pattern=r"[\s]{0,2}"), ['{\n "x":1}'], ['{\v"x":1}']),
        (json_schema(POINT, no_additional_properties=True), ['{"x": 1}'], ['{"x": 1, "y": 2}']),
        (constraint_of(regex="a/[0-9]+"), ["a/12"], ["a/", "xa/1"]),
        (constraint_of(regex="^a|b$"), ["a", "b"], ["ab"]),
        (constraint_of(choices={"texts": ["yes", "no", "no", 'a "b"\n']}), ["yes", 'a "b"\n'], ["maybe", ""]),
        (constraint_of(grammar='start: "a" B\nB: /[0-9]/'), ["a1"], ["a", "b1"]),
        (constraint_of(grammar='root ::= "a" [0-9]+ | "b"'), ["a12", "b"], ["a"]),
        (constraint_of(grammar='start: %json {"type": "null"}'), ["null"], ["1"]),
    ],
    ids=lambda value: re.sub(r"\s+", " ", str(value))[:40],
)
def test_a_constraint_accepts_what_it_says(
    constraint: inference_pb2.Constraint, good: list[str], bad: list[str]
) -> None:
    assert [text for text in good if not accepts(constraint, text)] == []
    assert [text for text in bad if accepts(constraint, text)] == []


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({}, ""),
        ({"json_object": False}, "json_object"),
        ({"json_schema": ""}, "json_schema"),
        ({"json_schema": "{"}, "json_schema"),
        ({"json_schema": "[]"}, "json_schema"),
        ({"json_schema": "null"}, "json_schema"),
        ({"json_schema": '{"maximum": NaN}'}, "json_schema"),
        ({"json_schema": '{"x-guidance": {"lenient": true}}'}, "json_schema"),
        ({"json_schema": json.dumps({"title": "a" * 65536})}, "json_schema"),
        ({"json_schema": "[" * 65 + "]" * 65}, "json_schema"),
        ({"json_schema": "[" * 30000 + "]" * 30000}, "json_schema"),
        ({"regex": ""}, "regex"),
        ({"regex": "a\0"}, "regex"),
        ({"regex": "a" * 65537}, "regex"),
        ({"grammar": ""}, "grammar"),
        ({"grammar": "start: \0"}, "grammar"),
        ({"grammar": "a" * 65537}, "grammar"),
        ({"choices": {"texts": []}}, "choices.texts"),
        ({"choices": {"texts": ["a", ""]}}, "choices.texts[1]"),
        ({"choices": {"texts": ["a" * 40000, "b" * 40000]}}, "choices"),
        ({"structural_tag": "{"}, "structural_tag"),
        ({"regex": "a", "json_style": {"compact": True}}, "json_style"),
        (
            {"json_object": True, "json_style": {"compact": True, "whitespace_pattern": " "}},
            "json_style.whitespace_pattern",
        ),
        (
            {"json_object": True, "json_style": {"whitespace_pattern": "[^a]"}},
            "json_style.whitespace_pattern",
        ),
        ({"json_object": True, "json_style": {"whitespace_pattern": "x*"}}, "json_style.whitespace_pattern"),
        (
            {"json_object": True, "json_style": {"whitespace_pattern": " " * 300}},
            "json_style.whitespace_pattern",
        ),
    ],
)
def test_what_is_wrong_is_refused_by_name(fields: dict[str, Any], path: str) -> None:
    assert refused(constraint_of(**fields)) == [path]


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_grammar_can_follow_is_refused_by_name(name: str) -> None:
    schema, word = REFUSED[name]
    assert word in problem(json_schema(schema))


@pytest.mark.parametrize("kind", ["regex", "grammar"])
def test_malformed_texts_do_not_compile(kind: str) -> None:
    assert problem(constraint_of(**{kind: "(a"}))


def test_gbnf_that_is_malformed_or_too_deep_is_refused() -> None:
    assert problem(constraint_of(grammar='root ::= ("a"'))
    assert "nested too deeply" in problem(constraint_of(grammar="root ::= " + "(" * 20000))


def test_every_schema_of_the_set_compiles() -> None:
    problems = {name: problem(json_schema(schema)) for name, schema in (SCHEMAS | ENDLESS).items()}
    assert {name: each for name, each in problems.items() if each} == {}


def test_closed_objects_close_those_within() -> None:
    schema = {"$defs": {"p": POINT}, "type": "object", "properties": {"p": {"$ref": "#/$defs/p"}}}
    constraint = json_schema(schema, no_additional_properties=True)
    assert accepts(constraint, '{"p": {"x": 1}}')
    assert not accepts(constraint, '{"p": {"x": 1, "y": 1}}')
    assert accepts(
        json_schema({"const": {"properties": 1}}, no_additional_properties=True), '{"properties": 1}'
    )


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        (
            {"allOf": [POINT, {"type": "object", "properties": {"z": {"type": "integer"}}}]},
            '{"x": 1, "z": 2}',
        ),
        ({"$defs": {"p": POINT}, "$ref": "#/$defs/p", "properties": {"z": {}}}, '{"x": 1, "z": 2}'),
        ({"type": "object", "properties": {"a": {}}, "required": ["a", "z"]}, '{"a": 1, "z": 2}'),
        (
            {"items": {"properties": {"a": {}}, "anyOf": [POINT, {"properties": {"z": {}}}]}},
            '[{"a": 1, "z": 2}]',
        ),
    ],
    ids=["allOf", "ref", "required", "anyOf"],
)
def test_objects_that_are_put_together_are_not_closed(schema: dict[str, Any], text: str) -> None:
    assert accepts(json_schema(schema, no_additional_properties=True), text)


def test_a_choice_of_objects_is_closed() -> None:
    either = json_schema(
        {"anyOf": [POINT, {"type": "object", "properties": {"z": {}}, "required": ["z"]}]},
        no_additional_properties=True,
    )
    assert accepts(either, '{"z": 1}')
    assert accepts(either, '{"x": 1}')
    assert not accepts(either, '{"x": 1, "z": 1}')


def test_classes_of_characters_are_ascii() -> None:
    """As in JSON Schemas' patterns; a model that may write any digit of Unicode does."""
    assert accepts(constraint_of(regex=r"\d\w\s"), "1a ")
    for text in ("٣a ", "1é ", "1a\u3000"):
        assert not accepts(constraint_of(regex=r"\d\w\s"), text)


_KEYWORDS = st.one_of(
    st.sampled_from(("type", "properties", "items", "required", "anyOf", "oneOf", "allOf", "$ref", "$defs")),
    st.sampled_from(("enum", "const", "pattern", "format", "minimum", "maxLength", "prefixItems", "not")),
)
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
_HOSTILE = st.recursive(
    _LEAVES | st.sampled_from(["object", "string", "#", "#/$defs/a", "^(a+)+$", "date"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(_KEYWORDS | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=12,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(_HOSTILE)
def test_any_schema_is_taken_or_refused_with_a_reason(schema: Any) -> None:
    constraint = constraint_of(json_schema=json.dumps(schema))
    try:
        grammar = parse(constraint)
    except InvalidRequestError:
        return
    compiled = compile_text(COMPILER, grammar.text)
    assert bool(compiled.text) != bool(compiled.error)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_regex_or_grammar_is_taken_or_refused_with_a_reason(text: str) -> None:
    for kind in ("regex", "grammar", "structural_tag"):
        constraint = inference_pb2.Constraint()
        setattr(constraint, kind, text)
        try:
            grammar = parse(constraint)
        except InvalidRequestError:
            continue
        compiled = compile_text(COMPILER, grammar.text)
        assert bool(compiled.text) != bool(compiled.error)


def tag(value: Any) -> inference_pb2.Constraint:
    return constraint_of(structural_tag=json.dumps(value))


CALL = {"begin": "<call>", "schema": POINT, "end": "</call>"}
FORMAT_TAG = {"begin": "<call>", "content": {"type": "json_schema", "json_schema": POINT}, "end": "</call>"}


@pytest.mark.parametrize(
    ("value", "good", "bad"),
    [
        (
            {"structures": [CALL], "triggers": ["<ca"]},
            ["hello", 'a <call>{"x": 1}</call> b', '<call>{"x": 1}</call><call>{"x": 2}</call>'],
            ['<call>{"y": 1}</call>', "<cat>", '<call>{"x": 1}'],
        ),
        (
            {"type": "structural_tag", "format": {"type": "triggered_tags", "triggers": ["<call>"],
             "tags": [FORMAT_TAG], "at_least_one": True, "stop_after_first": True}},
            ['a <call>{"x": 1}</call>'],
            ["hello", '<call>{"x": 1}</call> b'],
        ),
        (
            {"format": {"type": "sequence", "elements": [
                {"type": "const_string", "value": "Answer: "},
                {"type": "or", "elements": [{"type": "regex", "pattern": "[0-9]+"},
                                            {"type": "grammar", "grammar": 'start: "none"'}]}]}},
            ["Answer: 12", "Answer: none"],
            ["12", "Answer: x"],
        ),
        (
            {"format": {"type": "sequence", "elements": [
                {"type": "tag", "begin": "<think>", "content": {"type": "any_text"}, "end": "</think>"},
                {"type": "any_text"}]}},
            ["<think>a < b</think>x", "<think></think>"],
            ["x", "<think>"],
        ),
        (
            {"format": {"type": "tags_with_separator", "separator": ",", "at_least_one": True,
             "tags": [{"begin": "[", "content": {"type": "regex", "pattern": "[a-z]"}, "end": ["]", ")"]}]}},
            ["[a]", "[a],[b),[c]"],
            ["", "[a]["],
        ),
    ],
    ids=["structures", "triggered", "sequence", "text in a tag", "separator"],
)  # fmt: skip
def test_structural_tags_accept_what_they_say(value: Any, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if not accepts(tag(value), text)] == []
    assert [text for text in bad if accepts(tag(value), text)] == []


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"structures": [{}], "triggers": ["<"]},
        {"structures": [CALL], "triggers": []},
        {"structures": [CALL], "triggers": ["<x>"]},
        {"structures": [], "triggers": ["<"]},
        {"format": {"type": "qwen_xml_parameter"}},
        {"format": {"type": "sequence"}},
        {"format": {"type": "or", "elements": []}},
        {"format": {"type": "json_schema", "json_schema": {"x-guidance": {}}}},
        {"format": {"type": "sequence", "elements": [{"type": "any_text"}, {"type": "any_text"}]}},
        {"format": {"type": "tag", "begin": "a", "content": {"type": "any_text"}, "end": 1}},
    ],
)
def test_malformed_structural_tags_are_refused(value: Any) -> None:
    assert refused(tag(value)) == ["structural_tag"]


def test_a_grammar_may_be_wrapped() -> None:
    grammar = parse(constraint_of(regex="[0-9]"))
    wrapped = grammar.wrapped('start: "<" @answer @more ">"', more={"lark_grammar": 'start: "!"'})
    matcher, _ = COMPILER.compile(wrapped.text)
    for byte in b"<7!":
        COMPILER.advance(matcher, byte)
    with pytest.raises(GrammarError):
        COMPILER.advance(matcher, ord("x"))
