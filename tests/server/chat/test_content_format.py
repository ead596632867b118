from __future__ import annotations

import pytest

from server.chat.content_format import ContentFormat, detect_content_format
from server.chat.environment import TEMPLATE_ENVIRONMENT

LOOP = "{% for m in messages %}"
END = "{% endfor %}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (LOOP + "{{ m['content'] }}" + END, ContentFormat.TEXT),
        (LOOP + "{{ m.content | trim }}{% for c in m.tool_calls %}{% endfor %}" + END, ContentFormat.TEXT),
        (LOOP + "{% for part in m['content'] %}{{ part.text }}{% endfor %}" + END, ContentFormat.PARTS),
        (LOOP + "{% for part in m.content | list %}{% endfor %}" + END, ContentFormat.PARTS),
        (LOOP + "{% for part in m.content[1:] %}{% endfor %}" + END, ContentFormat.PARTS),
        (LOOP + "{% set body = m.content %}{% for part in body %}{% endfor %}" + END, ContentFormat.PARTS),
        (
            LOOP
            + "{% if m.content is string %}{{ m.content }}{% else %}"
            + "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}"
            + END,
            ContentFormat.TEXT_OR_PARTS,
        ),
        (
            "{% macro show(content) %}{% if content is string %}{{ content }}{% else %}"
            "{% for part in content %}{{ part.text }}{% endfor %}{% endif %}{% endmacro %}"
            + LOOP
            + "{{ show(m.content) }}"
            + END,
            ContentFormat.TEXT_OR_PARTS,
        ),
    ],
)
def test_a_template_that_loops_over_content_reads_parts(source: str, expected: ContentFormat) -> None:
    assert detect_content_format(TEMPLATE_ENVIRONMENT.parse(source)) is expected
