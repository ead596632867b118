"""From a `Constraint` to a grammar. Whether it compiles is for `grammar_checker.py` to say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from server.fields import is_given, shown
from server.grammars import WHITESPACE, Grammar, choice_part, gbnf_part, json_part, lark_part, regex_part
from server.json_texts import check_size, closed, parse_json, parse_schema
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
    path = f"spec.constraint.{kind}"
    is_json = kind in ("json_object", "json_schema")
    if constraint.HasField("json_style") and not is_json:
        fields.refuse("spec.constraint.json_style", "only with json_object and json_schema")
    if is_json:
        part = _json(fields, path, constraint)
    elif kind == "structural_tag":
        return _structural_tag(fields, path, constraint.structural_tag)
    elif kind == "choices":
        part = _choices(fields, path, constraint.choices)
    else:
        part = _text(fields, path, getattr(constraint, kind), is_regex=kind == "regex")
    return None if part is None else Grammar(path, "start: @answer", (("answer", part),))


def _json(fields: Fields, path: str, constraint: inference_pb2.Constraint) -> Part | None:
    schema: Any = {"type": "object"}
    if constraint.WhichOneof("kind") == "json_schema":
        schema = parse_schema(fields, path, constraint.json_schema)
    else:
        fields.require(constraint.json_object, path, "false asks for nothing; expected true")
    style = constraint.json_style
    pattern = _whitespace(fields, style)
    if schema is None or pattern is None:
        return None
    if style.no_additional_properties:
        schema = closed(schema)
    return json_part(schema, compact=style.compact, whitespace_pattern=pattern)


def _whitespace(fields: Fields, style: inference_pb2.JsonStyle) -> str | None:
    """The pattern of white space between JSON's tokens; None where it was refused."""
    path, pattern = "spec.constraint.json_style.whitespace_pattern", style.whitespace_pattern
    if not is_given(style, "whitespace_pattern"):
        return WHITESPACE
    fields.require(not style.compact, path, "not with compact, which writes no white space")
    fields.at_most(path, pattern, MAX_PATTERN_CHARACTERS, "characters")
    if not _WHITESPACE_PATTERN.fullmatch(pattern):
        expected = r"blanks, \n, \r, \t and \s, classes of them, groups and repetitions"
        fields.refuse(path, f"{shown(pattern)} may match more than white space; expected {expected}")
        return None
    # \s is more than JSON's white space.
    in_classes = re.sub(r"\[[^]]*\]", lambda match: match[0].replace(r"\s", r" \t\n\r"), pattern)
    return in_classes.replace(r"\s", r"[ \t\n\r]")


def _choices(fields: Fields, path: str, choices: inference_pb2.Choices) -> Part | None:
    texts = list(dict.fromkeys(choices.texts))
    check_size(fields, path, "".join(texts))
    fields.require(bool(texts), f"{path}.texts", "must not be empty")
    if "" in texts:
        fields.refuse(f"{path}.texts[{list(choices.texts).index('')}]", "must not be empty")
    return choice_part(texts) if texts and "" not in texts else None


def _text(fields: Fields, path: str, text: str, *, is_regex: bool) -> Part | None:
    check_size(fields, path, text)
    if not text or "\0" in text:
        fields.refuse(path, "must not hold a NUL character" if text else "must not be empty")
        return None
    if is_regex:
        return regex_part(text)
    return gbnf_part(text) if _GBNF_RULE.search(text) else lark_part(text)


def _structural_tag(fields: Fields, path: str, text: str) -> Grammar | None:
    value = parse_json(fields, path, text)
    return None if value is None else structural_tag(path, value)
