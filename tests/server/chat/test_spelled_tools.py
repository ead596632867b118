"""Tools for templates that do not know them."""

from __future__ import annotations

from typing import Any

from server.chat.detection import choose_reasoning_format, choose_tool_format
from server.chat.output_reader import OutputFormat, OutputReader
from server.chat.pieces import CallStart
from server.chat.reasoning import DEEPSEEK_R1, QWEN3
from server.chat.spelled_tools import spell_tools
from server.chat.template import ChatTemplate
from server.chat.tool_formats import HERMES, LLAMA3_JSON, MISTRAL, PYTHONIC

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"é": 1}'}}
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, {})


def test_tools_are_a_part_of_the_system_message() -> None:
    (system, user) = spell_tools([{"role": "user", "content": "hi"}], [TOOL])
    assert (system["role"], user["content"]) == ("system", "hi")
    assert '"name": "f"' in system["content"]
    (system,) = spell_tools([{"role": "system", "content": [{"type": "text", "text": "Be kind."}]}], [TOOL])
    assert system["content"].startswith("Be kind.\n\n")


def test_calls_and_answers_are_text() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "assistant", "content": "Well.", "tool_calls": [CALL, CALL]},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": [{"type": "text", "text": "2"}]},
        {"role": "user", "content": "so?"},
    ]
    assistant, answers, user = spell_tools(messages, [])
    call = '<tool_call>\n{"name": "f", "arguments": {"é": 1}}\n</tool_call>'
    assert assistant == {"role": "assistant", "content": f"Well.\n{call}\n{call}"}
    assert answers["role"] == "user"
    assert answers["content"].count("<tool_response>") == 2
    assert user == messages[-1]
    reader = OutputReader(OutputFormat(tools=HERMES))
    calls = [one for one in reader.push(assistant["content"]) if isinstance(one, CallStart)]
    assert len(calls) == 2


def test_only_a_template_that_does_not_know_tools_gets_them_spelled() -> None:
    messages = [{"role": "user", "content": "hi"}]
    assert "<tools>" in template(PLAIN).render(messages, [TOOL])
    assert template(PLAIN).render(messages) == "<user>hi"
    knows = template(PLAIN + "{% if tools %}{{ tools | tojson }}{% endif %}")
    assert "<tools>" not in knows.render(messages, [TOOL])


def test_templates_that_know_tools_get_arguments_as_objects() -> None:
    source = "{{ tools }}{{ messages[0].tool_calls[0].function.arguments.items() | list }}"
    message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    assert "('é', 1)" in template(source).render([message], [TOOL])


def test_the_template_tells_the_formats() -> None:
    signs = {
        "{{ '[TOOL_CALLS]' }}": MISTRAL,
        "{{ '<tool_call>' }}": HERMES,
        "{{ '[func_name1(params_name1=params_value1)]' }}": PYTHONIC,
        "{{ '<|python_tag|>' }}": LLAMA3_JSON,
        PLAIN: HERMES,
    }
    for source, expected in signs.items():
        assert choose_tool_format("auto", template(source)) is expected
    assert choose_tool_format("mistral", template(PLAIN)) is MISTRAL
    assert choose_tool_format("auto", None) is HERMES
    thinks = template("{{ messages[0].content.split('</think>')[-1] }}")
    assert choose_reasoning_format("auto", thinks) is QWEN3
    bars = template("{{ '<\uff5cAssistant\uff5c><think>' }}{{ '</think>' }}")
    assert choose_reasoning_format("auto", bars) is DEEPSEEK_R1
    assert choose_reasoning_format("none", thinks) is None
    assert choose_reasoning_format("auto", template(PLAIN)) is None
    assert choose_reasoning_format("qwen3", None) is QWEN3
