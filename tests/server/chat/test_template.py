from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hostile_templates import PAYLOADS
from transformers.utils.chat_template_utils import render_jinja_template

from server.chat.template import MAX_ARGUMENTS_CHARACTERS, ChatTemplate, ChatTemplateError

if TYPE_CHECKING:
    from pathlib import Path

CHATML = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

# Uses all that model makers use: macros, namespaces, loop controls, whitespace control, filters, tools.
ELABORATE = """
{{- bos_token }}
{%- macro show(content) %}
    {%- if content is string %}{{ content | trim }}
    {%- else %}{% for part in content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}
    {%- endif %}
{%- endmacro %}
{%- set ns = namespace(seen=0, last=none) %}
{% if tools %}
    Tools:
    {% for tool in tools %}
    {{ tool | tojson }}
    {{ tool.function.parameters | tojson(indent=2) }}
    {% endfor %}
{% endif %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% continue %}{% endif %}
    {%- if loop.index > 9 %}{% break %}{% endif %}
    {%- set ns.seen = ns.seen + 1 %}
    {%- set ns.last = message.role %}
    {% generation %}<{{ message['role'] }}>{{ show(message.content) }}{% endgeneration %}
    {%- for call in message.tool_calls or [] %}
[{{ call.function.name }} {{ call.function.arguments | tojson }}]
    {%- endfor %}
    {%- if message.reasoning_content is defined %}({{ message.reasoning_content }}){% endif %}
{%- endfor %}
{{ ns.seen }} {{ ns.last | upper }} {{ dict(a=1) }} {{ "%.1f" | format(1.25) }} {{ now | default('never') }}
{%- if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}
{%- if add_generation_prompt %}<assistant>{% endif %}
"""

TOOL = {
    "type": "function",
    "function": {
        "name": "wetter",
        "parameters": {"type": "object", "properties": {"Straße": {"type": "string"}}},
    },
}
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be <brief> & 'kind'."},
    {"role": "user", "content": "  Wie ist das Wetter? 🎉\n"},
    {
        "role": "assistant",
        "content": "",
        "reasoning_content": "look it up",
        "tool_calls": [
            {
                "id": "1",
                "type": "function",
                "function": {"name": "wetter", "arguments": {"z": 1, "Straße": "A"}},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "kalt"}]},
]


def oracle(source: str, messages: list[dict[str, Any]], **variables: Any) -> str:
    result: Any = render_jinja_template([messages], chat_template=source, bos_token="<s>", **variables)
    (rendered,), _ = result
    return str(rendered)


@pytest.mark.parametrize("tools", [None, [TOOL]])
@pytest.mark.parametrize("arguments", [{}, {"enable_thinking": False}, {"now": [1.0, {"é": None}]}])
def test_renders_as_transformers_does(tools: list[dict[str, Any]] | None, arguments: dict[str, Any]) -> None:
    template = ChatTemplate(ELABORATE, {"bos_token": "<s>"})
    for adds in (True, False):
        prompt = template.render(CONVERSATION, tools, add_generation_prompt=adds, arguments=arguments)
        expected = oracle(ELABORATE, CONVERSATION, tools=tools, add_generation_prompt=adds, **arguments)
        assert prompt == expected
    assert '"Straße"' in template.render(CONVERSATION, [TOOL])


@pytest.mark.parametrize("source", [CHATML, CHATML.replace("message.content", "message.content | trim")])
@pytest.mark.parametrize("last", ["The capital of France is", "  The capital is ", "<|im_end|>\n"])
def test_continues_the_final_message_as_transformers_does(source: str, last: str) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": last}]
    prompt = ChatTemplate(source, {}).render(
        messages, add_generation_prompt=False, continue_final_message=True
    )
    assert prompt == oracle(source, messages, continue_final_message=True)
    assert prompt.rstrip().endswith(last.strip())


def test_a_message_that_is_not_rendered_cannot_be_continued() -> None:
    template = ChatTemplate("{{ messages[0].content }}", {})
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(ChatTemplateError, match="to be continued"):
        template.render(messages, add_generation_prompt=False, continue_final_message=True)
    with pytest.raises(ChatTemplateError, match="exclude each other"):
        template.render(messages, continue_final_message=True)


def test_the_template_with_a_developer_role_keeps_it() -> None:
    messages = [{"role": "developer", "content": "x"}]
    assert "system\nx" in ChatTemplate(CHATML, {}).render(messages)
    assert "developer\nx" in ChatTemplate(CHATML + "{# developer #}", {}).render(messages)


def test_the_date_is_there() -> None:
    prompt = ChatTemplate("{{ strftime_now('%Y') }}", {}).render([{"role": "user", "content": ""}])
    assert int(prompt) >= 2024


@pytest.mark.parametrize(
    "name",
    [
        "messages",
        "tools",
        "add_generation_prompt",
        "continue_final_message",
        "chat_template",
        "tokenize",
        "bos_token",
        "raise_exception",
        "range",
        "namespace",
        "__class__",
        "_private",
        "not a name",
        "",
    ],
)
def test_arguments_cannot_take_reserved_names(name: str) -> None:
    template = ChatTemplate(CHATML, {"bos_token": "<s>"})
    with pytest.raises(ChatTemplateError, match="reserved or not a valid name"):
        template.render([{"role": "user", "content": "x"}], arguments={name: True})


def test_arguments_are_limited_in_size_and_depth() -> None:
    template = ChatTemplate("{{ a | length }}", {})
    messages = [{"role": "user", "content": "x"}]
    assert template.render(messages, arguments={"a": "x" * 1000}) == "1000"
    with pytest.raises(ChatTemplateError, match=f"more than {MAX_ARGUMENTS_CHARACTERS}"):
        template.render(messages, arguments={"a": "x" * 2_000_000})
    with pytest.raises(ChatTemplateError, match="nested"):
        template.render(messages, arguments={"a": json.loads("[" * 500 + "]" * 500)})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('Roles must alternate') }}", "refuses this conversation: Roles must alternate"),
        ("{{ messages[0].missing.attribute }}", "has no attribute 'missing'"),
        ("{{ 'a' + 1 }}", "cannot render"),
        ("{{ 1 / 0 }}", "cannot render"),
        ("{{ messages | nth }}", "not valid"),
        ("{% for %}", "not valid"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "cannot render"),
        ("{{ range(10**9) | list }}", "cannot render"),
        ("{% include 'other' %}", "cannot render"),
    ],
)
def test_a_template_that_fails_says_why_without_a_trace(source: str, message: str) -> None:
    with pytest.raises(ChatTemplateError, match=message) as caught:
        ChatTemplate(source, {}).render([{"role": "user", "content": "x"}])
    assert "Traceback" not in str(caught.value)
    assert ".py" not in str(caught.value)


@pytest.mark.check("S09")
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_hostile_template_reaches_nothing(
    payload: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ChatTemplateError):
        ChatTemplate(payload, {}).render([{"role": "user", "content": "x"}])
    assert list(tmp_path.iterdir()) == []


def test_hostile_conversations_are_text() -> None:
    messages = [{"role": "user", "content": "{{ 7 * 7 }}{% raw %}"}]
    assert "{{ 7 * 7 }}{% raw %}" in ChatTemplate(CHATML, {}).render(messages)
