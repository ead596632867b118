"""Every way of saying what the output must look like, and what is wrong with some."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from translator.chat_request import chat_spec, parse_chat
from translator.completion_request import completion_specs, parse_completion
from translator.errors import ApiError

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"maximum": 1e3}}}
TEXT = json.dumps(SCHEMA, separators=(",", ":")).replace("1000.0", "1000.0")
CLOSED = {"no_additional_properties": True}
CLOSED_SCHEMA = {"json_schema": TEXT, "json_style": CLOSED}


def constraint(**fields: Any) -> dict[str, Any]:
    """What both routes make of these fields."""
    body = {"messages": [{"role": "user", "content": "hi"}], "prompt": "hi"} | fields
    encoded = json.dumps(body).encode()
    (completion,) = completion_specs(parse_completion(encoded))
    chat = chat_spec(parse_chat(encoded))
    assert chat.constraint == completion.constraint
    assert chat.HasField("constraint") == completion.HasField("constraint")
    return dict(MessageToDict(chat.constraint, preserving_proto_field_name=True))


def refusal(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        constraint(**fields)
    assert caught.value.status == 400
    return caught.value


def schema_format(**inner: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "strict": True, **inner}}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"response_format": None, "structured_outputs": None, "guided_json": None}, {}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        ({"response_format": {"type": "json_object", "schema": {}}}, {"json_object": True}),
        (
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
            CLOSED_SCHEMA,
        ),
        ({"response_format": schema_format(schema=SCHEMA)}, CLOSED_SCHEMA),
        (
            {"response_format": {"type": "json_schema", "schema": SCHEMA}},
            CLOSED_SCHEMA,
        ),
        (
            {"response_format": {"type": "structural_tag", "format": {"a": 1}}},
            {"structural_tag": '{"type":"structural_tag","format":{"a":1}}'},
        ),
        ({"structured_outputs": {"json": SCHEMA}}, CLOSED_SCHEMA),
        ({"structured_outputs": {"json": TEXT, "regex": None}}, CLOSED_SCHEMA),
        ({"structured_outputs": {"json": True}}, {"json_schema": "true", "json_style": CLOSED}),
        ({"structured_outputs": {"regex": "a+"}}, {"regex": "a+"}),
        ({"structured_outputs": {"choice": ["a", "b"]}}, {"choices": {"texts": ["a", "b"]}}),
        ({"structured_outputs": {"grammar": "start: x"}}, {"grammar": "start: x"}),
        ({"structured_outputs": {"json_object": True}}, {"json_object": True}),
        ({"structured_outputs": {"structural_tag": '{"a":1}'}}, {"structural_tag": '{"a":1}'}),
        ({"structured_outputs": {"structural_tag": {"a": 1}}}, {"structural_tag": '{"a":1}'}),
        (
            {
                "structured_outputs": {
                    "json_object": True,
                    "disable_any_whitespace": True,
                    "disable_additional_properties": True,
                    "whitespace_pattern": "",
                }
            },
            {"json_object": True, "json_style": {"compact": True, "no_additional_properties": True}},
        ),
        (
            {"structured_outputs": {"json": SCHEMA, "whitespace_pattern": " ?"}},
            {"json_schema": TEXT, "json_style": CLOSED | {"whitespace_pattern": " ?"}},
        ),
        (
            {"structured_outputs": {"json": SCHEMA, "disable_additional_properties": False}},
            {"json_schema": TEXT, "json_style": {}},
        ),
        ({"guided_json": SCHEMA}, CLOSED_SCHEMA),
        ({"guided_json": TEXT}, CLOSED_SCHEMA),
        ({"guided_regex": "a+"}, {"regex": "a+"}),
        ({"guided_choice": ["a"]}, {"choices": {"texts": ["a"]}}),
        ({"guided_grammar": "start: x"}, {"grammar": "start: x"}),
        ({"guided_decoding_backend": "xgrammar"}, {}),
        (
            {"guided_json": SCHEMA, "guided_whitespace_pattern": " ?"},
            {"json_schema": TEXT, "json_style": CLOSED | {"whitespace_pattern": " ?"}},
        ),
        ({"json_schema": SCHEMA}, CLOSED_SCHEMA),
        ({"regex": "a+"}, {"regex": "a+"}),
        ({"grammar": "start: x"}, {"grammar": "start: x"}),
        ({"ebnf": "root ::= x"}, {"grammar": "root ::= x"}),
        ({"grammar": "", "regex": "", "json_schema": "", "guided_whitespace_pattern": ""}, {}),
    ],
)
def test_all_ways_lead_to_the_contract(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert constraint(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": ["json"]}}, "response_format.type"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": None}}, "response_format"),
        ({"response_format": schema_format()}, "response_format"),
        ({"response_format": schema_format(schema=5)}, "response_format"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"json": 5}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": ""}}, "structured_outputs.json"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs.regex"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": ["a", ""]}}, "structured_outputs.choice[1]"),
        ({"structured_outputs": {"choice": ["a", 1]}}, "structured_outputs.choice[1]"),
        ({"structured_outputs": {"grammar": ""}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs.json_object"),
        ({"structured_outputs": {"structural_tag": ""}}, "structured_outputs.structural_tag"),
        (
            {"structured_outputs": {"regex": "a", "disable_any_whitespace": True}},
            "structured_outputs.disable_any_whitespace",
        ),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_json": 5}, "guided_json"),
        ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern"),
        ({"guided_regex": "a", "guided_whitespace_pattern": " "}, "guided_whitespace_pattern"),
        ({"guided_regex": "a", "guided_json": SCHEMA}, "guided_regex"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
        ({"response_format": schema_format(schema={}), "structured_outputs": {"regex": "a"}},
         "structured_outputs"),
    ],
)  # fmt: skip
def test_what_is_malformed_or_said_twice_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)
    assert error.param == param
    assert error.message.startswith(param)
