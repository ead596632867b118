"""JSON texts of callers' constraints, within limits: schemas and structural tags."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 64 * 1024
MAX_DEPTH = 64
"""Objects and arrays within each other."""
_TOO_DEEP = f"objects and arrays are nested more than {MAX_DEPTH} deep"

# Keywords of JSON Schema by what stands in them: a schema, schemas by name, or a list of schemas.
_SCHEMA = ("additionalProperties", "additionalItems", "items", "not", "if", "then", "else", "contains")
_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SCHEMA_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")


class ConstraintError(ValueError):
    """A constraint is malformed; the text says how, for the caller."""


def parse_json(text: str) -> Any:
    """Parse a text.

    Raises:
        ConstraintError: it is too long, too deep or not JSON.
    """
    check_size(text)
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ConstraintError(_TOO_DEEP) from None
    except ValueError as error:
        raise ConstraintError(f"is not JSON: {error}") from error
    if _is_deeper(value, MAX_DEPTH):
        raise ConstraintError(_TOO_DEEP)
    return value


def parse_schema(text: str) -> Any:
    """Parse a JSON Schema.

    Raises:
        ConstraintError: it is none, or has settings of the library's own.
    """
    schema = parse_json(text)
    if not isinstance(schema, dict | bool):
        raise ConstraintError("is not a JSON Schema; expected an object")
    if isinstance(schema, dict) and "x-guidance" in schema:
        raise ConstraintError("x-guidance is not taken; json_style says how JSON is written")
    return schema


def check_size(text: str) -> None:
    """Refuse a text of more than 64 KiB.

    Raises:
        ConstraintError: it is longer.
    """
    num_bytes = len(text.encode())
    if num_bytes > MAX_BYTES:
        raise ConstraintError(f"{num_bytes} bytes; expected at most {MAX_BYTES}")


def closed(schema: Any) -> Any:
    """Return a schema in which objects that name properties and do not say otherwise have no others.

    Where several schemas describe one object together, each names a part of its properties: then nothing
    is closed.
    """
    return schema if _joins(schema) else _closed(schema)


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for key in _SCHEMA:
        if key in schema:
            result[key] = _closed(schema[key])
    for key in _SCHEMAS_BY_NAME:
        if isinstance(schema.get(key), dict):
            result[key] = {name: _closed(each) for name, each in schema[key].items()}
    for key in _SCHEMA_LISTS:
        if isinstance(schema.get(key), list):
            result[key] = [_closed(each) for each in schema[key]]
    if "properties" in schema and not schema.keys() & {"additionalProperties", "patternProperties"}:
        result["additionalProperties"] = False
    return result


def _joins(schema: Any) -> bool:
    """Whether a schema somewhere describes one value by several schemas, or demands what it does not name."""
    if not isinstance(schema, dict):
        return False
    parts = len(schema["allOf"]) if isinstance(schema.get("allOf"), list) else 0
    parts += sum(key in schema for key in ("properties", "$ref", "anyOf", "oneOf"))
    named, required = schema.get("properties"), schema.get("required")
    if isinstance(named, dict) and isinstance(required, list) and not all(name in named for name in required):
        return True
    return parts > 1 or any(map(_joins, _schemas_in(schema)))


def _schemas_in(schema: dict[str, Any]) -> Iterator[Any]:
    for key in _SCHEMA:
        yield schema.get(key)
    for key in _SCHEMAS_BY_NAME:
        if isinstance(schema.get(key), dict):
            yield from schema[key].values()
    for key in _SCHEMA_LISTS:
        if isinstance(schema.get(key), list):
            yield from schema[key]


def _is_deeper(value: Any, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_is_deeper(each, depth - 1) for each in inner)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")
