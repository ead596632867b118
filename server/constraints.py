"""From a `Constraint` to a grammar. Whether it compiles is for `grammar_checker.py` to say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from server.fields import shown
from server.grammars import WHITESPACE, Grammar, choice_part, gbnf_part, json_part, lark_part, regex_part
from server.json_texts import ConstraintError, check_size, closed, parse_json, parse_schema
from server.structural_tags import structural_tag

if TYPE_CHECKING:
    from pagewire.v1 import inference_pb2
    from server.fields import Fields
    from server.grammars import Part

MAX_PATTERN_CHARACTERS = 256
_GBNF_RULE = re.compile(r"^\s*[A-Za-z][\w-]*\s*::=", re.MULTILINE)
_WHITESPACE_PATTERN = re.compile(
    r"(?: |\t|\n|\\[nrts]|\\x(?:20|0[9aAdD])|\[(?:[ \t\n]|\\[nrts]|\\x(?:20|0[9aAdD]))+\]|\((?:\?:)?|[)|*+?]"
    r"|\{\d+(?:,\d*)?\})+"
)


def parse_constraint(fields: Fields, constraint: inference_pb2.Constraint) -> Grammar | None:
    """Check `spec.constraint`. Return its grammar; None where it was refused, which `fields` then says."""
    kind = constraint.WhichOneof("kind")
    if kind is None:
        fields.refuse("spec.constraint", "a kind is needed, such as json_schema")
        return None
    if constraint.HasField("json_style") and kind not in ("json_object", "json_schema"):
        fields.refuse("spec.constraint.json_style", "only with json_object and json_schema")
    path = f"spec.constraint.{kind}"
    try:
        if kind == "structural_tag":
            return structural_tag(path, parse_json(constraint.structural_tag))
        part = _part(fields, kind, constraint)
    except ConstraintError as error:
        fields.refuse(path, str(error))
        return None
    return Grammar(path, "start: @answer", (("answer", part),))


def _part(fields: Fields, kind: str, constraint: inference_pb2.Constraint) -> Part:
    match kind:
        case "json_object":
            if not constraint.json_object:
                raise ConstraintError("false asks for nothing; expected true")
            return _json(fields, {"type": "object"}, constraint.json_style)
        case "json_schema":
            return _json(fields, parse_schema(constraint.json_schema), constraint.json_style)
        case "choices":
            return _choices(fields, constraint.choices)
        case "regex":
            return regex_part(_text(constraint.regex))
        case _:
            grammar = _text(constraint.grammar)
            return gbnf_part(grammar) if _GBNF_RULE.search(grammar) else lark_part(grammar)


def _json(fields: Fields, schema: Any, style: inference_pb2.JsonStyle) -> Part:
    if style.no_additional_properties:
        schema = closed(schema)
    return json_part(schema, compact=style.compact, whitespace_pattern=_whitespace(fields, style))


def _whitespace(fields: Fields, style: inference_pb2.JsonStyle) -> str:
    """The pattern of white space between JSON's tokens."""
    path, pattern = "spec.constraint.json_style.whitespace_pattern", style.whitespace_pattern
    if not pattern:
        return WHITESPACE
    fields.require(not style.compact, path, "not with compact, which writes no white space")
    if len(pattern) > MAX_PATTERN_CHARACTERS or not _WHITESPACE_PATTERN.fullmatch(pattern):
        expected = r"blanks, \n, \r, \t and \s, classes of them, groups and repetitions"
        fields.refuse(path, f"{shown(pattern)} may match more than white space; expected {expected}, at most"
                            f" {MAX_PATTERN_CHARACTERS} characters")  # fmt: skip
    # \s is more than JSON's white space.
    in_classes = re.sub(r"\[[^]]*\]", lambda match: match[0].replace(r"\s", r" \t\n\r"), pattern)
    return in_classes.replace(r"\s", r"[ \t\n\r]")


def _choices(fields: Fields, choices: inference_pb2.Choices) -> Part:
    path = "spec.constraint.choices.texts"
    check_size("".join(choices.texts))
    fields.require(bool(choices.texts), path, "must not be empty")
    for index, text in enumerate(choices.texts):
        fields.require(bool(text), f"{path}[{index}]", "must not be empty")
    return choice_part(list(dict.fromkeys(choices.texts)))


def _text(text: str) -> str:
    """Check a regular expression or a grammar."""
    check_size(text)
    if not text:
        raise ConstraintError("must not be empty")
    if "\0" in text:
        raise ConstraintError("must not hold a NUL character")
    return text
