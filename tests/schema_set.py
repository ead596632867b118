"""200 JSON Schemas of rising difficulty: 20 families of 10. A family's schemas grow with their level.

All are bounded, so that every output ends by itself, however weak the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Schema = dict[str, Any]

LEVELS = range(1, 11)
WORD: Schema = {"type": "string", "maxLength": 8}
COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 999}
FLAG: Schema = {"type": "boolean"}
LEAVES = (WORD, COUNT, FLAG)
COLOURS = ("red", "green", "blue", "black", "white", "grey", "cyan", "pink", "gold", "teal")


def record(properties: Schema, **others: Any) -> Schema:
    """A closed object that has all of its properties, unless `others` says otherwise."""
    closed = {"type": "object", "additionalProperties": False, "required": list(properties)}
    return {**closed, "properties": properties, **others}


def leaf(index: int) -> Schema:
    return LEAVES[index % len(LEAVES)]


def scalar(level: int) -> Schema:
    simple: list[Schema] = [
        FLAG,
        {"type": "null"},
        COUNT,
        WORD,
        {"type": ["boolean", "null"]},
        {"type": ["string", "null"], "maxLength": 5},
        {"type": ["integer", "boolean"], "minimum": 0, "maximum": 9},
        {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25},
        {"title": "Answer", "description": "A word.", "default": "yes", "examples": ["no"], **WORD},
        {"type": ["string", "integer", "boolean", "null"], "maxLength": 3, "minimum": -5, "maximum": 5},
    ]
    return simple[level - 1]


def bounded_integer(level: int) -> Schema:
    bounds: list[Schema] = [
        {"minimum": 0, "maximum": 1},
        {"minimum": -1, "maximum": 1},
        {"minimum": 7, "maximum": 13},
        {"exclusiveMinimum": 0, "exclusiveMaximum": 3},
        {"minimum": 95, "maximum": 105},
        {"minimum": -120, "maximum": -98},
        {"minimum": 0, "maximum": 100, "multipleOf": 10},
        {"exclusiveMinimum": 999, "maximum": 12345},
        {"minimum": -32768, "maximum": 32767},
        {"minimum": 1, "maximum": 5000, "multipleOf": 125},
    ]
    return record({"value": {"type": "integer", **bounds[level - 1]}})


def bounded_number(level: int) -> Schema:
    step = {"multipleOf": 0.5 if level % 2 else 0.01}
    return record({"share": {"type": "number", "minimum": -level, "maximum": level * level, **step}})


def bounded_string(level: int) -> Schema:
    return record({"text": {"type": "string", "minLength": level // 2, "maxLength": level}})


def enumeration(level: int) -> Schema:
    mixed: list[Any] = [None, True, 0, -1.5, "x", 'a "quoted" word', [1, 2], {"k": "v"}, "naïve", ""]
    return record(
        {
            "colour": {"type": "string", "enum": list(COLOURS[:level])},
            "fixed": {"const": mixed[level - 1]},
            "any": {"enum": mixed[:level]},
        }
    )


def pattern(level: int) -> Schema:
    patterns = (
        "^[a-z]{3}$",
        "^[A-Z][a-z]{2,5}$",
        "^(yes|no)$",
        "^[0-9]{3}-[0-9]{4}$",
        "^#[0-9a-f]{6}$",
        "^v[0-9]{1,2}\\.[0-9]{1,2}$",
        "^[A-Z]{2}[0-9]{2}( [0-9]{4}){2}$",
        "^\\([0-9]{3}\\) [0-9]{3}$",
        "^(?:[a-z]{1,4}/){1,3}[a-z]{1,4}$",
        "^\\$[0-9]{1,3}(,[0-9]{3}){0,2}\\.[0-9]{2}$",
    )
    return record({"code": {"type": "string", "pattern": patterns[level - 1]}})


def string_format(level: int) -> Schema:
    formats = {
        "date": 10,
        "time": 20,
        "date-time": 32,
        "ipv4": 15,
        "uuid": 36,
        "duration": 20,
        "ipv6": 45,
        "email": 40,
        "hostname": 40,
        "uri": 60,
    }
    name, max_len = list(formats.items())[level - 1]
    return record({"at": {"type": "string", "format": name, "maxLength": max_len}})


def array(level: int) -> Schema:
    return {"type": "array", "items": leaf(level), "minItems": level // 3, "maxItems": level}


def fixed_places(level: int) -> Schema:
    places = [leaf(index) for index in range(level)]
    rest: Any = False if level % 2 else leaf(level)
    return {"type": "array", "prefixItems": places, "items": rest, "minItems": level, "maxItems": level + 2}


def flat_object(level: int) -> Schema:
    return record({f"field_{index}": leaf(index) for index in range(level)})


def optional_properties(level: int) -> Schema:
    properties = {f"field_{index}": leaf(index) for index in range(level)}
    return record(properties, required=[name for index, name in enumerate(properties) if index % 3 == 0])


def free_properties(level: int) -> Schema:
    known = {f"field_{index}": leaf(index) for index in range(level // 2)}
    most = {"minProperties": len(known), "maxProperties": len(known) + 2}
    return record(known, additionalProperties=leaf(level), **most)


def named_by_pattern(level: int) -> Schema:
    patterns = {"^[a-c]{1,3}$": WORD, "^n_[0-9]$": COUNT, "^is_[xyz]$": FLAG}
    chosen = dict(list(patterns.items())[: 1 + level % 3])
    return {
        "type": "object",
        "patternProperties": chosen,
        "additionalProperties": False,
        "maxProperties": 1 + level // 2,
    }


def nested_object(level: int) -> Schema:
    schema = record({"leaf": leaf(level)})
    for depth in range(level):
        schema = record({"id": COUNT, f"level_{depth}": schema})
    return schema


def nested_array(level: int) -> Schema:
    schema: Schema = leaf(level)
    for _ in range(1 + level // 2):
        schema = {"type": "array", "items": schema, "minItems": 1, "maxItems": 2}
    return schema


def any_of(level: int) -> Schema:
    shapes = [record({f"key_{index}": leaf(index)}) for index in range(level)]
    return record({"one": {"anyOf": [{"type": "null"}, *shapes]}, "more": {"anyOf": [WORD, COUNT]}})


def one_of(level: int) -> Schema:
    """Objects that a `kind` tells apart."""
    kinds = [record({"kind": {"const": COLOURS[index]}, "value": leaf(index)}) for index in range(level)]
    return record({"shape": {"oneOf": kinds}})


def all_of(level: int) -> Schema:
    """An integer that all parts bound, and a closed object of which each part requires one property."""
    properties = {f"part_{index}": leaf(index) for index in range(1 + level // 2)}
    parts = [record(properties, required=[name]) for name in properties]
    limits = {"allOf": [{"type": "integer"}, {"minimum": level}, {"maximum": 20 + level}]}
    return record({"count": limits, "whole": {"allOf": parts}})


def references(level: int) -> Schema:
    """Definitions that refer to each other in a chain, some used twice."""
    definitions: dict[str, Schema] = {"link_0": WORD}
    for index in range(1, level + 1):
        reference = {"$ref": f"#/$defs/link_{index - 1}"}
        definitions[f"link_{index}"] = record({"next": reference, "n": COUNT})
    properties = {"first": {"$ref": f"#/$defs/link_{level}"}, "last": {"$ref": "#/$defs/link_0"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": definitions,
        **record(properties),
    }


def table(level: int) -> Schema:
    """Rows of one definition, whose cells mix what the other families try apart."""
    cells: tuple[Schema, ...] = (
        {"enum": list(COLOURS[:level])},
        {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,3}$"},
        {"type": "string", "format": "date"},
        {"anyOf": [{"type": "null"}, COUNT]},
        {"type": "array", "items": FLAG, "maxItems": 2},
        {"$ref": "#/$defs/place"},
    )
    columns = {f"c{index}": cells[index % len(cells)] for index in range(1 + level)}
    definitions = {"row": record(columns), "place": record({"x": COUNT, "y": COUNT})}
    rows = {"type": "array", "items": {"$ref": "#/$defs/row"}, "minItems": 1, "maxItems": 1 + level // 4}
    return {"$defs": definitions, **record({"rows": rows})}


def recursive(level: int) -> Schema:
    """Lists, trees and expressions that contain themselves."""
    again = {"$ref": "#/$defs/node"}
    many = {"type": "array", "items": again, "maxItems": 1 + level // 5}
    nodes = (
        record({"value": COUNT, "next": {"anyOf": [{"type": "null"}, again]}}),
        record({"name": WORD, "children": many}),
        {"anyOf": [COUNT, record({"op": {"enum": ["+", "-"]}, "left": again, "right": COUNT})]},
    )
    fields = {f"field_{index}": leaf(index) for index in range(level // 2)}
    return {"$defs": {"node": nodes[level % 3]}, **record({**fields, "root": again})}


FAMILIES: tuple[Callable[[int], Schema], ...] = (
    scalar,
    bounded_integer,
    bounded_number,
    bounded_string,
    enumeration,
    pattern,
    string_format,
    array,
    fixed_places,
    flat_object,
    optional_properties,
    free_properties,
    named_by_pattern,
    nested_object,
    nested_array,
    any_of,
    one_of,
    all_of,
    references,
    table,
)
SCHEMAS: dict[str, Schema] = {
    f"{family.__name__}-{level}": family(level) for level in LEVELS for family in FAMILIES
}

ENDLESS: dict[str, Schema] = {f"recursive-{level}": recursive(level) for level in LEVELS}
"""Ten more whose answers may go on for ever: a model that does not end them is cut by its limit of tokens."""

REFUSED: dict[str, tuple[Schema, str]] = {
    "unique items": ({"type": "array", "items": COUNT, "uniqueItems": True}, "uniqueItems"),
    "negation": ({"not": {"type": "string"}}, "not"),
    "conditions": ({"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}}, "if"),
    "contained items": ({"type": "array", "contains": COUNT}, "contains"),
    "names of properties": ({"type": "object", "propertyNames": {"maxLength": 3}}, "propertyNames"),
    "dependent properties": ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    "unevaluated properties": ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
    "overlapping alternatives": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
    "an unknown format": ({"type": "string", "format": "isbn"}, "isbn"),
    "a remote reference": ({"$ref": "https://example.com/schema.json"}, "https://example.com/schema.json"),
    "a reference to nothing": ({"$ref": "#/$defs/missing"}, "/$defs/missing"),
    "a look-ahead": ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    "nothing": ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum"),
    "an unknown type": ({"type": "text"}, "text"),
    "settings of the library": ({"type": "object", "x-guidance": {"lenient": True}}, "x-guidance"),
}

BOMB: Schema = {
    "allOf": [{"anyOf": [{"type": "string", "pattern": f"a{x}{y}"} for y in range(5)]} for x in range(6)]
}
"""Takes far longer to compile than a request may: each way to choose the patterns is tried."""
