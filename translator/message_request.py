"""The bodies of POST /v1/messages and /v1/messages/count_tokens, as Anthropic's clients write them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from translator.errors import ApiError
from translator.fields import Endpoint
from translator.schema import Float32, Int32, RequestBody, UInt32, parse_request

if TYPE_CHECKING:
    from collections.abc import Iterator

CacheControl = dict[str, Any]


class CacheMark(msgspec.Struct, kw_only=True):
    """Whatever may mark the end of a prefix that is worth keeping. Prefixes are always kept here."""

    cache_control: CacheControl | None = None


class TextBlock(CacheMark, kw_only=True, tag_field="type", tag="text"):
    """Text."""

    text: str


class PlainBlock(CacheMark, kw_only=True):
    """Text, where there can be nothing else."""

    type: Literal["text"]
    text: str


class ThinkingBlock(CacheMark, kw_only=True, tag_field="type", tag="thinking"):
    """Reasoning of an earlier turn."""

    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(CacheMark, kw_only=True, tag_field="type", tag="redacted_thinking"):
    """Reasoning of another provider's model, which no other model can read."""

    data: str


class ToolUseBlock(CacheMark, kw_only=True, tag_field="type", tag="tool_use"):
    """A tool that the assistant called."""

    id: str
    name: Annotated[str, Meta(min_length=1)]
    input: dict[str, Any]


class ToolResultBlock(CacheMark, kw_only=True, tag_field="type", tag="tool_result"):
    """What a called tool returned."""

    tool_use_id: str
    content: str | list[PlainBlock] | None = None
    is_error: bool | None = None


class UserMessage(msgspec.Struct, kw_only=True, tag_field="role", tag="user"):
    """What the user says, and what tools returned."""

    content: str | Annotated[list[TextBlock | ToolResultBlock], Meta(min_length=1)]


class AssistantMessage(msgspec.Struct, kw_only=True, tag_field="role", tag="assistant"):
    """What the assistant said. The answer goes on with it where it comes last."""

    content: (
        str
        | Annotated[
            list[TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock], Meta(min_length=1)
        ]
    )


class SystemMessage(msgspec.Struct, kw_only=True, tag_field="role", tag="system"):
    """An instruction in the midst of a conversation."""

    content: str | Annotated[list[PlainBlock], Meta(min_length=1)]


Message = UserMessage | AssistantMessage | SystemMessage


class Tool(CacheMark, kw_only=True):
    """A function that the model may call. Tools that run on Anthropic's side are refused by their type."""

    name: Annotated[str, Meta(min_length=1)]
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    type: Literal["custom"] | None = None


class AutoChoice(msgspec.Struct, kw_only=True, tag_field="type", tag="auto"):
    """The model decides."""

    disable_parallel_tool_use: bool | None = None


class AnyChoice(msgspec.Struct, kw_only=True, tag_field="type", tag="any"):
    """At least one call."""

    disable_parallel_tool_use: bool | None = None


class ToolChoice(msgspec.Struct, kw_only=True, tag_field="type", tag="tool"):
    """A call of this function."""

    name: str
    disable_parallel_tool_use: bool | None = None


class NoChoice(msgspec.Struct, kw_only=True, tag_field="type", tag="none"):
    """No calls."""


Display = Literal["summarized", "omitted"]


class ThinkingEnabled(msgspec.Struct, kw_only=True, tag_field="type", tag="enabled"):
    """The model reasons, up to a number of tokens."""

    budget_tokens: UInt32
    display: Display | None = None


class ThinkingAdaptive(msgspec.Struct, kw_only=True, tag_field="type", tag="adaptive"):
    """The model decides how long it reasons."""

    display: Display | None = None


class ThinkingDisabled(msgspec.Struct, kw_only=True, tag_field="type", tag="disabled"):
    """The model answers at once, if its template knows how to make it."""


class JsonFormat(msgspec.Struct, kw_only=True):
    """JSON that is valid for a schema."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, kw_only=True):
    """What the answer looks like, and how much effort it is worth."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class MessagePrompt(RequestBody, kw_only=True):
    """All that reaches the prompt; the body of count_tokens."""

    model: str | None = None
    messages: Annotated[list[Message], Meta(min_length=1)]
    system: str | list[PlainBlock] | None = None
    tools: list[Tool] | None = None
    tool_choice: AutoChoice | AnyChoice | ToolChoice | NoChoice | None = None
    thinking: ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None

    def check_combinations(self) -> None:
        """Refuse a conversation that nobody can go on with."""
        last = self.messages[-1]
        if isinstance(last, AssistantMessage) and any(
            isinstance(block, ToolUseBlock) for block in last.content
        ):
            where = f"messages[{len(self.messages) - 1}]"
            raise ApiError(400, f"{where}.content: a tool_use needs a tool_result after it.", param=where)

    def marks_cache(self) -> bool:
        """Whether the request says what to cache, and so wants to hear of it."""
        if self.cache_control is not None:
            return True
        return any(mark.cache_control is not None for mark in self._marks())

    def _marks(self) -> Iterator[CacheMark]:
        yield from self.tools or ()
        if isinstance(self.system, list):
            yield from self.system
        for message in self.messages:
            if isinstance(message.content, list):
                yield from message.content


class MessageRequest(MessagePrompt, kw_only=True):
    """The fields of a Messages request; `fields.py` says what each does."""

    max_tokens: UInt32
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: Float32 | None = None
    top_p: Float32 | None = None
    top_k: Int32 | None = None


def parse_message_request(body: bytes) -> MessageRequest:
    """Parse and check a request.

    Raises:
        ApiError: 400; it names the field.
    """
    try:
        return parse_request(body, MessageRequest, Endpoint.MESSAGES)
    except ApiError as error:
        raise _explained(error) from error


def parse_message_prompt(body: bytes) -> MessagePrompt:
    """Parse and check what is to be counted.

    Raises:
        ApiError: 400; it names the field.
    """
    try:
        return parse_request(body, MessagePrompt, Endpoint.MESSAGES)
    except ApiError as error:
        raise _explained(error) from error


_BLOCK_TYPE = re.compile(r"(messages\[\d+\]|system)(\.content)?(\[\d+\](\.content\[\d+\])?)?\.type")


def _explained(error: ApiError) -> ApiError:
    """Say which blocks there are, where one of another kind was refused."""
    if error.param is None or not _BLOCK_TYPE.fullmatch(error.param):
        return error
    message = (
        f"{error.message} Only text is supported: text blocks, tool_use and thinking of the assistant, and"
        " tool_result of the user."
    )
    return ApiError(error.status, message, param=error.param, code="unsupported_parameter")
