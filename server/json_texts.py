"""JSON texts of callers' constraints, within limits: schemas and structural tags."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from server.fields import Fields

MAX_BYTES = 64 * 1024
MAX_DEPTH = 64
"""Objects and arrays within each other."""

# Keywords of JSON Schema by what stands in them: a schema, schemas by name, or a list of schemas.
_SCHEMA = ("additionalProperties", "additionalItems", "items", "not", "if", "then", "else", "contains")
_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_SCHEMA_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")


def parse_json(fields: Fields, path: str, text: str) -> Any:
    """Parse a text; None where it was refused, which `fields` then says."""
    check_size(fields, path, text)
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        fields.refuse(path, f"objects and arrays are nested more than {MAX_DEPTH} deep")
        return None
    except ValueError as error:
        fields.refuse(path, f"is not JSON: {error}")
        return None
    if _is_deeper(value, MAX_DEPTH):
        fields.refuse(path, f"objects and arrays are nested more than {MAX_DEPTH} deep")
        return None
    return value


def parse_schema(fields: Fields, path: str, text: str) -> Any:
    """Parse a JSON Schema; None where it was refused."""
    schema = parse_json(fields, path, text)
    if not isinstance(schema, dict | bool):
        if schema is not None:
            fields.refuse(path, "is not a JSON Schema; expected an object")
        return None
    if isinstance(schema, dict) and "x-guidance" in schema:
        fields.refuse(path, "x-guidance is not taken; json_style says how JSON is written")
        return None
    return schema


def check_size(fields: Fields, path: str, text: str) -> None:
    """Refuse a text of more than 64 KiB."""
    fields.at_most(path, text.encode(errors="surrogatepass"), MAX_BYTES, "bytes")


def closed(schema: Any) -> Any:
    """Return a schema in which objects that name properties and do not say otherwise have no others."""
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for key in _SCHEMA:
        if key in schema:
            result[key] = closed(schema[key])
    for key in _SCHEMAS_BY_NAME:
        if isinstance(schema.get(key), dict):
            result[key] = {name: closed(each) for name, each in schema[key].items()}
    for key in _SCHEMA_LISTS:
        if isinstance(schema.get(key), list):
            result[key] = [closed(each) for each in schema[key]]
    if "properties" in schema and not schema.keys() & {"additionalProperties", "patternProperties"}:
        result["additionalProperties"] = False
    return result


def _is_deeper(value: Any, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_is_deeper(each, depth - 1) for each in inner)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")
