from __future__ import annotations

from typing import Any

import pytest

from server.chat.content_format import ContentFormat
from server.chat.messages import ChatTemplateError, prepare_messages


def prepare(
    message: dict[str, Any],
    content_format: ContentFormat = ContentFormat.TEXT,
    knows_developer: bool = False,
    suffix: str = "",
) -> dict[str, Any]:
    (prepared,) = prepare_messages(
        [message], content_format, knows_developer=knows_developer, final_suffix=suffix
    )
    return prepared


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def test_content_takes_the_form_that_the_template_reads() -> None:
    parts = [text("a"), text("b")]
    assert prepare({"role": "user", "content": parts})["content"] == "a\nb"
    assert prepare({"role": "user", "content": parts}, ContentFormat.PARTS)["content"] == parts
    assert prepare({"role": "user", "content": "a"}, ContentFormat.PARTS)["content"] == [text("a")]
    assert prepare({"role": "user", "content": "a"}, ContentFormat.TEXT_OR_PARTS)["content"] == "a"
    assert prepare({"role": "user", "content": parts}, ContentFormat.TEXT_OR_PARTS)["content"] == parts


def test_absent_content_is_empty_and_other_absent_fields_stay_absent() -> None:
    assert prepare({"role": "assistant", "content": None, "name": None}) == {
        "role": "assistant",
        "content": "",
    }


def test_the_developer_is_the_system_where_the_template_knows_no_developer() -> None:
    message = {"role": "developer", "content": "x"}
    assert prepare(message)["role"] == "system"
    assert prepare(message, knows_developer=True)["role"] == "developer"


def test_reasoning_has_both_names_that_templates_use() -> None:
    prepared = prepare({"role": "assistant", "content": "x", "reasoning_content": "why"})
    assert (prepared["reasoning_content"], prepared["thinking"]) == ("why", "why")


def call(arguments: object) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": function}]}


@pytest.mark.parametrize(
    ("given", "expected"), [('{"b": 1, "a": [2.0]}', {"b": 1, "a": [2.0]}), ("", {}), ({"a": 1}, {"a": 1})]
)
def test_templates_get_the_arguments_of_a_call_as_an_object(given: object, expected: object) -> None:
    assert prepare(call(given))["tool_calls"][0]["function"]["arguments"] == expected


def test_the_callers_messages_stay_as_they_are() -> None:
    message = call('{"a": 1}') | {"content": [text("x")]}
    before = repr(message)
    prepare(message, suffix="!")
    assert repr(message) == before


def test_the_suffix_ends_the_last_message_alone() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [text("b"), text("c")]},
    ]
    prepared = prepare_messages(messages, ContentFormat.TEXT, knows_developer=False, final_suffix="!")
    assert [message["content"] for message in prepared] == ["a", "b\nc!"]


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ({"role": "user", "content": [{"type": "image_url"}]}, r"messages\[0\]\.content\[0\].*image_url"),
        (call("{"), r"messages\[0\]\.tool_calls\[0\]\.function\.arguments: not valid JSON"),
        (call("[]"), r"messages\[0\]\.tool_calls\[0\]\.function\.arguments: expected a JSON object"),
        (call("[" * 100_000), "not valid JSON"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_its_place(message: dict[str, Any], named: str) -> None:
    with pytest.raises(ChatTemplateError, match=named):
        prepare(message)


def test_a_last_part_without_text_cannot_be_continued() -> None:
    with pytest.raises(ChatTemplateError, match="no text to continue"):
        prepare({"role": "user", "content": [{"type": "image_url"}]}, ContentFormat.PARTS, suffix="!")


def test_no_messages_are_refused() -> None:
    with pytest.raises(ChatTemplateError, match="at least one"):
        prepare_messages([], ContentFormat.TEXT, knows_developer=False)
