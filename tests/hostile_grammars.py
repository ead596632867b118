"""Sixty constraints meant to cost too much, or to break what reads them, as the contract's JSON."""

from __future__ import annotations

import json
from typing import Any

from schema_set import BOMB

Fields = dict[str, Any]


def schema(value: Any) -> Fields:
    return {"jsonSchema": value if isinstance(value, str) else json.dumps(value)}


def regex(pattern: str) -> Fields:
    return {"regex": pattern}


def grammar(text: str) -> Fields:
    return {"grammar": text}


def nested(kind: str, depth: int) -> Any:
    value: Any = {"type": "string"}
    for _ in range(depth):
        value = {kind: [value]} if kind.endswith("Of") else {"type": "object", "properties": {"a": value}}
    return value


def patterns(first: str, others: int, each: int) -> Any:
    """All ways to choose one pattern of each group are tried."""
    return {
        "allOf": [
            {"anyOf": [{"type": "string", "pattern": f"{first}{x}{y}"} for y in range(each)]}
            for x in range(others)
        ]
    }


# Never done within any limit.
BOMBS: dict[str, Fields] = {
    "all ways to choose a pattern": schema(BOMB),
    "a bomb within a property": schema({"type": "object", "properties": {"a": BOMB}, "required": ["a"]}),
}

REFUSED: dict[str, Fields] = {
    # Not what they say they are
    "no JSON": schema("{"),
    "an array": schema([]),
    "a number": schema("1"),
    "NaN": schema('{"maximum": NaN}'),
    "a text": schema('"string"'),
    "an unknown type": schema({"type": "strange"}),
    "a type of a type": schema({"type": {"type": "string"}}),
    "a reference to nothing": schema({"$ref": "#/$defs/none"}),
    "a reference to the net": schema({"$ref": "http://127.0.0.1:9/schema.json"}),
    "a reference to a file": schema({"$ref": "file:///etc/passwd"}),
    "a reference to itself": schema({"$ref": "#"}),
    "settings of the library": schema({"type": "string", "x-guidance": {"item_separator": "x"}}),
    "nothing fits": schema({"type": "string", "enum": []}),
    "contradictory bounds": schema({"type": "integer", "minimum": 2, "maximum": 1}),
    "false": schema("false"),
    # Too large
    "all ways to choose another pattern": schema(patterns("b", 7, 5)),
    "1 MB": schema({"description": "x" * 2**20}),
    "10,000 values": schema({"enum": [f"value number {n}" for n in range(10_000)]}),
    "65 levels": schema("[" * 65 + "]" * 65),
    "100,000 levels": schema('{"a":' * 100_000),
    "200 levels of anyOf": schema(nested("anyOf", 200)),
    "200 levels of objects": schema(nested("properties", 200)),
    "a regex of 1 MB": regex("a" * 2**20),
    "a grammar of 1 MB": grammar('start: "' + "a" * 2**20 + '"'),
    # Patterns that cannot be followed
    "an open group": regex("(a"),
    "an open class": regex("[a"),
    "nothing to repeat": regex("*a"),
    "a look behind": regex("(?<=x)*"),
    "a look ahead": regex("(?=x)y"),
    "a back reference": regex(r"(a)\1"),
    "an unknown escape": regex(r"\8"),
    "a reversed range": regex("[z-a]"),
    "a reversed count": regex("a{3,2}"),
    "a count beyond count": regex("a{99999999999}"),
    "a pattern in a schema": schema({"type": "string", "pattern": "(a"}),
    "a look behind in a schema": schema({"type": "string", "pattern": "(?<=x)y"}),
    "an unknown format": schema({"type": "string", "format": "no-such-format"}),
    # Grammars
    "no grammar": grammar("no grammar at all"),
    "no start": grammar('other: "a"'),
    "an unknown rule": grammar("start: other"),
    "an open string": grammar('start: "a'),
    "an open regex": grammar("start: /a"),
    "a regex that is none": grammar("start: /(a/"),
    "another of our parts": grammar("start: @answer"),
    "a file to include": grammar("%import /etc/passwd\nstart: passwd"),
    "gbnf without a root": grammar('other ::= "a"'),
    "gbnf with an unknown rule": grammar("root ::= other"),
    "gbnf with an open class": grammar("root ::= [a"),
}

HARMLESS: dict[str, Fields] = {
    "gbnf that is cut": grammar('root ::= "a" |'),
    "counts within counts": regex("((((a{1,100}){1,100}){1,100}){1,100}){1,100}"),
    "nested repeats": regex("(a+)+b"),
    "nested stars": regex("(a*)*b"),
    "overlapping choices": regex("(a|a|aa)+b"),
    "dots": regex("(.*.*.*)*x"),
    "a long choice": regex("|".join(f"word{n}" for n in range(2_000))),
    "every character": regex(r"[\s\S]{0,200}"),
    "a recursive list": schema(
        {
            "$ref": "#/$defs/n",
            "$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}}},
        }
    ),
    "the least": schema({}),
    "1,000 values": schema({"enum": [f"v{n}" for n in range(1_000)]}),
    "500 properties": schema(
        {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(500)}}
    ),
}
