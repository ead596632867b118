"""The body of POST /v1/chat/completions, and its translation into the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pagewire.v1 import chat_pb2, inference_pb2
from translator.chat_tools import ToolOptions
from translator.constraints import apply_constraint
from translator.errors import ApiError
from translator.fields import Endpoint
from translator.schema import UInt32, apply_options, parse_request
from translator.tools import add_tools

if TYPE_CHECKING:
    from collections.abc import Mapping

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
_TEXT_PARTS = ("text", "input_text", "output_text")


class ContentPart(msgspec.Struct, kw_only=True):
    """One part of a message. Parts that are not text are refused."""

    type: str
    text: str | None = None
    refusal: str | None = None


class FunctionCall(msgspec.Struct, kw_only=True):
    """The function of a tool call."""

    name: str
    arguments: str | None = None


class ToolCall(msgspec.Struct, kw_only=True):
    """A call that the assistant made earlier."""

    id: str | None = None
    function: FunctionCall


class Message(msgspec.Struct, kw_only=True):
    """One message of the conversation."""

    role: Annotated[str, Meta(min_length=1)]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: FunctionCall | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None

    @property
    def text(self) -> str:
        """The texts of the content."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text or part.refusal or "" for part in self.content or ())

    @property
    def calls(self) -> list[ToolCall]:
        """The calls, in today's or in the old form."""
        old = [ToolCall(function=self.function_call)] if self.function_call else []
        return old + (self.tool_calls or [])

    @property
    def is_answer_without_text(self) -> bool:
        """Whether it is one that servers give: a refusal, or cut while the model reasoned."""
        others = (self.refusal, self.reasoning_content, self.reasoning, self.tool_calls)
        return self.role == "assistant" and any(other is not None for other in others)


class ChatRequest(ToolOptions, kw_only=True):
    """The fields of a chat request; `fields.py` says what each does."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: UInt32 | None = None
    logprobs: bool | None = None
    top_logprobs: UInt32 | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    echo: bool | None = None
    return_prompt_text: bool | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: ReasoningEffort | None = None
    documents: list[dict[str, Any]] | None = None
    include_reasoning: bool | None = None
    separate_reasoning: bool | None = None
    thinking_token_budget: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None

    def check_combinations(self) -> None:
        """Refuse fields that exclude each other."""
        super().check_combinations()
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs: needs logprobs to be true.", param="top_logprobs")
        if self.add_generation_prompt and self.continue_final_message:
            name = "continue_final_message"
            raise ApiError(400, f"{name}: excludes add_generation_prompt.", param=name)

    @property
    def response_role(self) -> str:
        """The role that answers: the last message's where the prompt does not open a turn of its own."""
        opens_turn = self.add_generation_prompt
        if opens_turn is None:
            opens_turn = not self.continue_final_message
        return "assistant" if opens_turn else self.messages[-1].role

    @property
    def echoed_text(self) -> str:
        """What stands before the generated text, if that was asked for."""
        last = self.messages[-1]
        return last.text if self.echo and last.role == self.response_role else ""


def parse_chat(body: bytes) -> ChatRequest:
    """Parse and check a request body.

    Raises:
        ApiError: 400; it names the field.
    """
    return parse_request(body, ChatRequest, Endpoint.CHAT)


def chat_spec(request: ChatRequest) -> inference_pb2.GenerationSpec:
    """Translate a request into the contract.

    Raises:
        ApiError: 400; it names the field.
    """
    spec = inference_pb2.GenerationSpec()
    apply_options(spec, request, Endpoint.CHAT)
    apply_constraint(spec, request)
    for index, message in enumerate(request.messages):
        _add_message(spec.chat.messages.add(), message, f"messages[{index}]")
    add_tools(spec.chat, request.function_tools(), request.choice(), request.is_parallel)
    _apply_reasoning(spec.reasoning, request)
    max_tokens = (
        request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
    )
    if max_tokens is not None:
        spec.stopping.max_tokens = max_tokens
    if request.logprobs:
        spec.output.logprobs = request.top_logprobs or 0
    if request.return_prompt_text:
        spec.output.prompt_text = True
    if request.add_generation_prompt is not None:
        spec.chat.add_generation_prompt = request.add_generation_prompt
    elif request.continue_final_message:
        spec.chat.add_generation_prompt = False
    arguments = _template_arguments(request)
    if arguments:
        spec.chat.template_arguments_json = msgspec.json.encode(arguments).decode()
    return spec


def _apply_reasoning(reasoning: inference_pb2.Reasoning, request: ChatRequest) -> None:
    if request.include_reasoning is False:
        reasoning.exclude = True
    if request.separate_reasoning is not None:
        reasoning.separate = request.separate_reasoning
    if request.thinking_token_budget is not None and request.thinking_token_budget >= 0:
        reasoning.max_tokens = request.thinking_token_budget


def _template_arguments(request: ChatRequest) -> dict[str, Any]:
    arguments = dict(request.chat_template_kwargs or {})
    if request.reasoning_effort is not None:
        arguments |= effort_arguments(request.reasoning_effort, arguments)
    if request.documents is not None:
        arguments.setdefault("documents", request.documents)
    return arguments


def effort_arguments(effort: ReasoningEffort, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables by which templates learn how much the model is to reason, but for those given."""
    arguments = {"reasoning_effort": effort, "enable_thinking": effort != "none"}
    return {name: value for name, value in arguments.items() if name not in given}


def _add_message(target: chat_pb2.Message, message: Message, where: str) -> None:
    target.role = "tool" if message.role == "function" else message.role
    _add_content(target, message, where)
    target.name = message.name or ""
    target.tool_call_id = message.tool_call_id or ""
    target.reasoning_text = message.reasoning_content or message.reasoning or ""
    for call in message.calls:
        target.tool_calls.add(
            id=call.id or "", name=call.function.name, arguments=call.function.arguments or ""
        )


def _add_content(target: chat_pb2.Message, message: Message, where: str) -> None:
    if message.content is None:
        if message.calls:
            return
        if not message.is_answer_without_text:
            raise ApiError(400, f"{where}.content: required.", param=f"{where}.content")
        target.text = message.refusal or ""
        return
    if isinstance(message.content, str):
        target.text = message.content
        return
    if not message.content:
        raise ApiError(400, f"{where}.content: expected at least one part.", param=f"{where}.content")
    for index, part in enumerate(message.content):
        text = part.refusal if part.type == "refusal" else part.text
        at = f"{where}.content[{index}]"
        if part.type not in (*_TEXT_PARTS, "refusal"):
            raise ApiError(
                400,
                f"{at}.type: only text is supported, got {part.type[:40]!a}.",
                param=f"{at}.type",
                code="unsupported_parameter",
            )
        if text is None:
            raise ApiError(400, f"{at}.text: required.", param=f"{at}.text")
        target.parts.parts.add(text=text)
