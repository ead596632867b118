"""What the output must look like, from the many ways in which HTTP clients say it to the contract's one.

OpenAI has `response_format`, vLLM `structured_outputs` and, before it, the `guided_*` fields; SGLang and
llama.cpp have fields named after the kind. A request may use one of them. Schemas, expressions and grammars
travel as text: whether they are valid is the server's to say.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from pagewire.v1 import inference_pb2
from translator.errors import ApiError
from translator.schema import GenerationOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FORMATS = ("text", "json_object", "json_schema", "structural_tag")


class StructuredOutputs(msgspec.Struct, kw_only=True):
    """vLLM's `structured_outputs`: exactly one kind, and how JSON is written."""

    json: Any = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | dict[str, Any] | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None
    whitespace_pattern: str | None = None


class ConstrainedOptions(GenerationOptions, kw_only=True):
    """The options of a generation whose output may be constrained."""

    response_format: dict[str, Any] | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, Any] | bool | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    json_schema: str | dict[str, Any] | bool | None = None
    regex: str | None = None
    grammar: str | None = None
    ebnf: str | None = None


def apply_constraint(spec: inference_pb2.GenerationSpec, options: ConstrainedOptions) -> None:
    """Write the constraint of a request, if it has one, into the contract's message.

    Raises:
        ApiError: 400; there are two, or one is malformed. It names the field.
    """
    given = list(_constraints(options))
    if len(given) > 1:
        (first, _), (second, _) = given[:2]
        raise ApiError(400, f"{second}: excludes {first}; expected one constraint.", param=second)
    for _, constraint in given:
        spec.constraint.CopyFrom(constraint)
    pattern = options.guided_whitespace_pattern
    if pattern:
        if not _is_json(spec.constraint):
            name = "guided_whitespace_pattern"
            raise ApiError(400, f"{name}: needs a constraint to JSON, such as guided_json.", param=name)
        spec.constraint.json_style.whitespace_pattern = pattern


def format_constraint(
    response_format: Mapping[str, Any], where: str = "response_format"
) -> inference_pb2.Constraint | None:
    """Return the constraint of OpenAI's `response_format`, or of what is built like it.

    Args:
        response_format: the object. A schema lies in `json_schema.schema`, or in `schema` itself.
        where: its path in the body.

    Raises:
        ApiError: 400; it is malformed. It names the field.
    """
    match response_format.get("type"):
        case "text":
            return None
        case "json_object":
            schema = response_format.get("schema")
            if schema:
                return _json(_schema(schema, f"{where}.schema"))
            return inference_pb2.Constraint(json_object=True)
        case "json_schema":
            return _json(_format_schema(response_format, where))
        case "structural_tag":
            return inference_pb2.Constraint(structural_tag=_dump(response_format))
        case other:
            expected = ", ".join(_FORMATS)
            message = f"{where}.type: {json.dumps(other)[:60]} is not known; expected one of {expected}."
            raise ApiError(400, message, param=f"{where}.type")


# The fields that are named after their kind. Empty texts in them ask for nothing.
_BY_KIND = {
    "guided_json": "json_schema",
    "json_schema": "json_schema",
    "guided_regex": "regex",
    "regex": "regex",
    "guided_grammar": "grammar",
    "grammar": "grammar",
    "ebnf": "grammar",
}


def _constraints(options: ConstrainedOptions) -> Iterator[tuple[str, inference_pb2.Constraint]]:
    """Yield each constraint that is given, with its field."""
    if options.response_format is not None:
        constraint = format_constraint(options.response_format)
        if constraint is not None:
            yield "response_format", constraint
    if options.structured_outputs is not None:
        yield "structured_outputs", _structured(options.structured_outputs)
    if options.guided_choice is not None:
        yield "guided_choice", _choices(options.guided_choice, "guided_choice")
    for name, kind in _BY_KIND.items():
        value = getattr(options, name)
        if value is not None and value != "":
            if kind == "json_schema":
                yield name, _json(_schema(value, name))
            else:
                constraint = inference_pb2.Constraint()
                setattr(constraint, kind, value)
                yield name, constraint


def _structured(options: StructuredOutputs) -> inference_pb2.Constraint:
    where = "structured_outputs"
    kinds = [
        name
        for name in ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
        if getattr(options, name) is not None
    ]
    if len(kinds) != 1:
        said = " and ".join(kinds) or "none"
        raise ApiError(400, f"{where}: expected exactly one kind of constraint, got {said}.", param=where)
    at = f"{where}.{kinds[0]}"
    constraint = inference_pb2.Constraint()
    match kinds[0]:
        case "json":
            constraint = _json(_schema(options.json, at))
        case "regex":
            constraint.regex = _filled(options.regex, at)
        case "choice":
            constraint = _choices(options.choice or [], at)
        case "grammar":
            constraint.grammar = _filled(options.grammar, at)
        case "json_object":
            if not options.json_object:
                raise ApiError(400, f"{at}: false asks for nothing; expected true.", param=at)
            constraint.json_object = True
        case _:
            tag = options.structural_tag
            constraint.structural_tag = _filled(tag, at) if isinstance(tag, str) else _dump(tag)
    _apply_style(constraint, options)
    return constraint


def _apply_style(constraint: inference_pb2.Constraint, options: StructuredOutputs) -> None:
    styles = {
        "disable_any_whitespace": "compact",
        "disable_additional_properties": "no_additional_properties",
        "whitespace_pattern": "whitespace_pattern",
    }
    for name, style in styles.items():
        value = getattr(options, name)
        if value is None or value == "":
            continue
        if not _is_json(constraint):
            if not value:
                continue
            at = f"structured_outputs.{name}"
            raise ApiError(400, f"{at}: only with json or json_object.", param=at)
        setattr(constraint.json_style, style, value)


def _json(schema: str) -> inference_pb2.Constraint:
    """A schema whose objects are closed, as OpenAI's strict ones and vLLM's are, where it does not say."""
    constraint = inference_pb2.Constraint(json_schema=schema)
    constraint.json_style.no_additional_properties = True
    return constraint


def _is_json(constraint: inference_pb2.Constraint) -> bool:
    return constraint.WhichOneof("kind") in ("json_object", "json_schema")


def _format_schema(response_format: Mapping[str, Any], where: str) -> str:
    """The schema of type json_schema. An error names the whole format, as OpenAI's does."""
    holder = response_format.get("json_schema", response_format)
    if not isinstance(holder, dict):
        raise ApiError(400, f"{where}.json_schema: expected an object.", param=where)
    schema = holder.get("schema")
    if schema is None:
        message = f"{where}: type json_schema needs json_schema.schema."
        raise ApiError(400, message, param=where)
    return _schema(schema, where)


def _schema(schema: object, where: str) -> str:
    """A schema as JSON text. One that is text already is the server's to parse."""
    if isinstance(schema, str):
        return _filled(schema, where)
    if not isinstance(schema, dict | bool):
        raise ApiError(400, f"{where}: expected a JSON Schema, an object.", param=where)
    return _dump(schema)


def _choices(texts: list[str], where: str) -> inference_pb2.Constraint:
    if not texts:
        raise ApiError(400, f"{where}: expected at least one text.", param=where)
    for index, text in enumerate(texts):
        _filled(text, f"{where}[{index}]")
    return inference_pb2.Constraint(choices=inference_pb2.Choices(texts=texts))


def _filled(text: str | None, where: str) -> str:
    if not text:
        raise ApiError(400, f"{where}: must not be empty.", param=where)
    return text


def _dump(value: object) -> str:
    return msgspec.json.encode(value).decode()
