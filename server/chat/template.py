"""Chat templates: a conversation becomes the prompt that its model was trained on.

Templates come with models and are Jinja programs written for Hugging Face transformers, so they get the
same environment here. They are not trusted: the sandbox keeps them from everything but their arguments.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jinja2
import jinja2.meta

from server.chat.content_format import ContentFormat, detect_content_format
from server.chat.environment import TEMPLATE_ENVIRONMENT, RaisedByTemplateError
from server.chat.messages import ChatTemplateError, prepare_messages
from server.chat.spelled_tools import spell_tools

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["ChatTemplate", "ChatTemplateError", "TemplateArgumentError", "check_template_arguments"]

MAX_ARGUMENTS_CHARACTERS = 1 << 20
"""Documents are among them."""
MAX_ARGUMENTS_DEPTH = 32
RESERVED_ARGUMENTS = frozenset(
    {"messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize"}
)
# The trailing space shows whether the template strips its messages.
CONTINUATION_MARK = "\ue000continue\ue001 "


@dataclass(frozen=True, slots=True)
class _Program:
    """A compiled template, and what its source shows about it."""

    template: jinja2.Template
    content_format: ContentFormat
    knows_developer: bool
    knows_tools: bool


class TemplateArgumentError(ChatTemplateError):
    """A caller's template variables cannot be used."""


class ChatTemplate:
    """Renders conversations. Safe to use from several threads."""

    def __init__(
        self, source: str, special_tokens: Mapping[str, str], *, tool_use_source: str | None = None
    ) -> None:
        """Compile a template.

        Args:
            source: the Jinja source.
            special_tokens: texts by template variable, such as "bos_token".
            tool_use_source: the source that renders conversations with tools, where the model has two.

        Raises:
            ChatTemplateError: a source is not valid Jinja.
        """
        self.source = source
        self.tool_use_source = tool_use_source
        self._special_tokens = dict(special_tokens)
        self._default = _compile(source)
        self._tool_use = self._default if tool_use_source is None else _compile(tool_use_source)

    @property
    def content_format(self) -> ContentFormat:
        """Whether the template reads a message's content as text or as a list of parts."""
        return self._default.content_format

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> str:
        """Return the prompt.

        Args:
            messages: in OpenAI's form. `content` is a text, a list of parts, or None; the arguments of a
                tool call are JSON text or an object; reasoning is in `reasoning_content`.
            tools: in OpenAI's form. None or empty: no tools. For a template that does not know tools they
                are spelled out in the system message.
            add_generation_prompt: whether the prompt ends by opening the assistant's turn.
            continue_final_message: whether the prompt ends within the last message, without its end mark.
            arguments: further template variables.

        Raises:
            ChatTemplateError: the template refuses the conversation or cannot render it; the text is
                meant for the caller.
        """
        if continue_final_message and add_generation_prompt:
            raise ChatTemplateError(
                "continue_final_message and add_generation_prompt exclude each other: the prompt ends either"
                " within the last message or after it"
            )
        arguments = dict(arguments or {})
        check_template_arguments(arguments, self._special_tokens)
        program = self._tool_use if tools else self._default
        if not program.knows_tools:
            messages = spell_tools(messages, tools or ())
        prepared = prepare_messages(
            messages,
            program.content_format,
            knows_developer=program.knows_developer,
            final_suffix=CONTINUATION_MARK if continue_final_message else "",
        )
        variables = {
            **self._special_tokens,
            **arguments,
            "messages": prepared,
            "tools": list(tools) if tools else None,
            "add_generation_prompt": add_generation_prompt,
        }
        prompt = _run(program.template, variables)
        return _cut_continuation(prompt) if continue_final_message else prompt


def check_template_arguments(arguments: Mapping[str, Any], special_tokens: Mapping[str, str]) -> None:
    """Check that a caller's template variables shadow nothing and are of a sane size.

    Raises:
        TemplateArgumentError: they are not; the text names the variable.
    """
    for name in arguments:
        taken = name in RESERVED_ARGUMENTS or name in special_tokens or name in TEMPLATE_ENVIRONMENT.globals
        if taken or not name.isidentifier() or name.startswith("_"):
            raise TemplateArgumentError(
                f"the template argument {name[:100]!r} is reserved or not a valid name"
            )
    if _depth(arguments) > MAX_ARGUMENTS_DEPTH:
        raise TemplateArgumentError(f"template arguments may be nested at most {MAX_ARGUMENTS_DEPTH} deep")
    size = len(json.dumps(arguments, ensure_ascii=False))
    if size > MAX_ARGUMENTS_CHARACTERS:
        raise TemplateArgumentError(
            f"template arguments have {size} characters as JSON, more than {MAX_ARGUMENTS_CHARACTERS}"
        )


def _depth(value: object) -> float:
    """Levels of nesting; infinite beyond the limit, so that hostile values are not walked to their end."""
    level: list[object] = [value]
    for depth in range(MAX_ARGUMENTS_DEPTH + 1):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return depth
    return math.inf


def _compile(source: str) -> _Program:
    try:
        tree = TEMPLATE_ENVIRONMENT.parse(source)
        template = TEMPLATE_ENVIRONMENT.from_string(source)
    except (jinja2.TemplateError, RecursionError) as error:
        raise ChatTemplateError(f"the chat template is not valid: {error}") from error
    return _Program(
        template,
        content_format=detect_content_format(tree),
        knows_developer="developer" in source,
        knows_tools="tools" in jinja2.meta.find_undeclared_variables(tree),
    )


def _run(template: jinja2.Template, variables: Mapping[str, Any]) -> str:
    try:
        return template.render(variables)
    except RaisedByTemplateError as error:
        raise ChatTemplateError(f"the model's chat template refuses this conversation: {error}") from error
    except (
        jinja2.TemplateError,
        TypeError,
        ValueError,
        LookupError,
        ArithmeticError,
        AttributeError,
        RecursionError,
    ) as error:
        reason = str(error)[:300]
        raise ChatTemplateError(
            f"the model's chat template cannot render this conversation: {reason}"
        ) from error


def _cut_continuation(prompt: str) -> str:
    """End the prompt at the mark. A template that strips messages strips the mark's space with them."""
    mark = CONTINUATION_MARK.rstrip()
    at = prompt.rfind(mark)
    if at < 0:
        raise ChatTemplateError(
            "the model's chat template does not render the message that is to be continued"
        )
    preserves_space = prompt.startswith(CONTINUATION_MARK, at)
    return prompt[:at] if preserves_space else prompt[:at].rstrip()
