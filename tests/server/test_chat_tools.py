"""What is refused of a chat's tools."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format

from pagewire.v1 import chat_pb2
from server.chat_tools import ToolChoice, ToolUse, parse_tools
from server.errors import InvalidRequestError
from server.fields import Fields

F: dict[str, Any] = {"name": "f", "parameters_json": '{"type": "object", "properties": {"b": {}, "a": {}}}'}
G = {"name": "g", "description": "Does g."}


def parse(**chat: Any) -> ToolUse:
    fields = Fields()
    use = parse_tools(fields, "chat", json_format.ParseDict(chat, chat_pb2.Chat()))
    fields.check()
    return use


def refused(**chat: Any) -> list[str]:
    with pytest.raises(InvalidRequestError) as raised:
        parse(**chat)
    return [violation.field for violation in raised.value.violations]


def test_templates_get_openais_form_with_keys_in_order() -> None:
    first, second = parse(tools=[F, G]).for_template()
    parameters = {"type": "object", "properties": {"b": {}, "a": {}}}
    assert first == {"type": "function", "function": {"name": "f", "parameters": parameters}}
    assert list(first["function"]["parameters"]["properties"]) == ["b", "a"]
    assert second["function"]["description"] == "Does g."
    assert second["function"]["parameters"] == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("chat", "choice", "callable_", "num_shown"),
    [
        ({}, ToolChoice.NONE, [], 0),
        ({"tool_choice": {"mode": "TOOL_CHOICE_MODE_AUTO"}}, ToolChoice.NONE, [], 0),
        ({"tools": [F, G]}, ToolChoice.AUTO, ["f", "g"], 2),
        ({"tools": [F, G], "tool_choice": {"mode": 0}}, ToolChoice.AUTO, ["f", "g"], 2),
        ({"tools": [F, G], "tool_choice": {"mode": 1}}, ToolChoice.NONE, [], 0),
        ({"tools": [F, G], "tool_choice": {"mode": 3}}, ToolChoice.REQUIRED, ["f", "g"], 2),
        ({"tools": [F, G], "tool_choice": {"function_name": "g"}}, ToolChoice.NAMED, ["g"], 2),
    ],
)
def test_choices(chat: dict[str, Any], choice: ToolChoice, callable_: list[str], num_shown: int) -> None:
    use = parse(**chat)
    assert use.choice is choice
    assert [tool.name for tool in use.callable] == callable_
    assert len(use.for_template()) == num_shown


def test_how_many_calls_count() -> None:
    assert parse(tools=[F]).max_calls is None
    assert parse(tools=[F], parallel_tool_calls=False).max_calls == 1
    assert parse(tools=[F], tool_choice={"function_name": "f"}).max_calls == 1


@pytest.mark.parametrize("name", ["f", "a" * 64, "get-weather_2.x"])
def test_names_that_are_taken(name: str) -> None:
    assert parse(tools=[{"name": name}]).tools[0].name == name


@pytest.mark.parametrize(
    ("chat", "paths"),
    [
        ({"tools": [{"name": ""}]}, ["chat.tools[0].name"]),
        ({"tools": [F, {"name": "a b"}]}, ["chat.tools[1].name"]),
        ({"tools": [{"name": "a" * 65}]}, ["chat.tools[0].name"]),
        ({"tools": [{"name": "é"}]}, ["chat.tools[0].name"]),
        ({"tools": [F, F]}, ["chat.tools"]),
        ({"tools": [{"name": f"f{index}"} for index in range(129)]}, ["chat.tools"]),
        ({"tools": [{"name": "f", "parameters_json": "{"}]}, ["chat.tools[0].parameters_json"]),
        ({"tools": [{"name": "f", "parameters_json": "[]"}]}, ["chat.tools[0].parameters_json"]),
        ({"tools": [F | {"parameters_json": '{"type": "array"}'}]}, ["chat.tools[0].parameters_json"]),
        ({"tools": [{"name": "f", "parameters_json": "[" * 9999}]}, ["chat.tools[0].parameters_json"]),
        ({"tools": [F], "tool_choice": {"function_name": "g"}}, ["chat.tool_choice.function_name"]),
        ({"tools": [F], "tool_choice": {}}, ["chat.tool_choice"]),
        ({"tools": [F], "tool_choice": {"mode": 9}}, ["chat.tool_choice.mode"]),
        ({"tool_choice": {"mode": "TOOL_CHOICE_MODE_REQUIRED"}}, ["chat.tool_choice"]),
        ({"tool_choice": {"function_name": "f"}}, ["chat.tool_choice"]),
    ],
)  # fmt: skip
def test_what_is_refused(chat: dict[str, Any], paths: list[str]) -> None:
    assert refused(**chat) == paths
