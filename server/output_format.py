"""What is looked for in the outputs of a request."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from server.chat.output_reader import OutputFormat
from server.chat.reasoning import stage_after
from server.chat.tool_formats import HERMES, PYTHONIC
from server.chat_tools import ToolChoice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.chat_tools import ToolUse
    from server.fields import Fields
    from server.reasoning_fields import ReasoningUse
    from server.served_model import ServedModel
    from server.tokenizer import Tokenizer

_NUM_LAST_TOKENS = 32


def output_format(tools: ToolUse, reasoning: ReasoningUse | None, model: ServedModel) -> OutputFormat:
    """Return what is looked for, whatever the prompt.

    Forced calls are made by a grammar for JSON, so a pythonic model writes them in Hermes' notation.
    """
    tool_format = None
    if tools.choice is not ToolChoice.NONE:
        tool_format = HERMES if tools.is_forced and model.tool_format is PYTHONIC else model.tool_format
    return OutputFormat(
        tools=tool_format,
        tool_names=frozenset(tool.name for tool in tools.callable),
        max_calls=tools.max_calls,
        is_forced=tools.is_forced,
        reasoning=model.reasoning_format if reasoning else None,
        separates_reasoning=reasoning is None or reasoning.is_separate,
    )


def check_strict(fields: Fields, tools: ToolUse, model: ServedModel) -> None:
    """Refuse strict tools where the model calls them in a form that no schema describes."""
    if model.tool_format is not PYTHONIC or tools.is_forced:
        return
    for index, tool in enumerate(tools.tools):
        if tool.strict and tools.choice is not ToolChoice.NONE:
            needed = "this model's calls are not JSON; they are when tool_choice is REQUIRED or a function"
            fields.refuse(f"spec.chat.tools[{index}].strict", needed)


def output_after(form: OutputFormat, prompt_token_ids: Sequence[int], tokenizer: Tokenizer) -> OutputFormat:
    """Return what is looked for after a prompt: it may have opened or closed the reasoning."""
    if form.reasoning is None:
        return form
    end = tokenizer.decode(prompt_token_ids[-_NUM_LAST_TOKENS:], skip_special_tokens=False)
    return replace(form, stage=stage_after(end, form.reasoning))
