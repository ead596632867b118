"""How a model calls tools and reasons, read from its chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.chat.reasoning import DEEPSEEK_R1, QWEN3, REASONING_FORMATS
from server.chat.tool_formats import HERMES, LLAMA3_JSON, MISTRAL, PYTHONIC, TOOL_FORMATS

if TYPE_CHECKING:
    from server.chat.reasoning import ReasoningFormat
    from server.chat.template import ChatTemplate
    from server.chat.tool_formats import ToolFormat

# Texts that only templates of the format hold, the surest first.
_TOOL_SIGNS: tuple[tuple[str, ToolFormat], ...] = (
    ("[TOOL_CALLS]", MISTRAL),
    ("<tool_call>", HERMES),
    ("[func_name1(", PYTHONIC),
    ("<|python_start|>", PYTHONIC),
    ("<|python_tag|>", LLAMA3_JSON),
    ('"parameters": dictionary of argument name', LLAMA3_JSON),
)


def choose_tool_format(name: str, template: ChatTemplate | None) -> ToolFormat:
    """Return the format of a name that an operator gave, or for "auto" the one that a template tells."""
    return detect_tool_format(template) if name == "auto" else TOOL_FORMATS[name]


def choose_reasoning_format(name: str, template: ChatTemplate | None) -> ReasoningFormat | None:
    """The same for reasoning, where "none" chooses none."""
    if name == "auto":
        return detect_reasoning_format(template)
    return None if name == "none" else REASONING_FORMATS[name]


def detect_tool_format(template: ChatTemplate | None) -> ToolFormat:
    """Tell the format of a model's tool calls. Where nothing tells, it is Hermes', which most models know."""
    sources = (template.source, template.tool_use_source or "") if template else ()
    for sign, tool_format in _TOOL_SIGNS:
        if any(sign in source for source in sources):
            return tool_format
    return HERMES


def detect_reasoning_format(template: ChatTemplate | None) -> ReasoningFormat | None:
    """Tell how a model marks its reasoning. None: it does not reason."""
    if template is None or QWEN3.closing not in template.source:
        return None
    return DEEPSEEK_R1 if "<｜Assistant｜>" in template.source else QWEN3  # noqa: RUF001 - DeepSeek's bars
