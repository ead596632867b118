"""The body of POST /v1/responses, and its translation into the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pagewire.v1 import inference_pb2
from translator.chat_request import ReasoningEffort, effort_arguments
from translator.constraints import ConstrainedOptions, apply_constraint, format_constraint
from translator.errors import ApiError
from translator.fields import Endpoint
from translator.response_items import InputItem  # noqa: TC001 - msgspec reads it
from translator.response_tools import Tool, ToolChoice  # noqa: TC001 - msgspec reads them
from translator.schema import UInt32, apply_options, parse_request

if TYPE_CHECKING:
    from pagewire.v1 import chat_pb2
    from translator.response_tools import Toolbox

Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
]
Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]


class TextOptions(msgspec.Struct, kw_only=True):
    """How the answer's text is written."""

    format: dict[str, Any] | None = None
    """What it must look like, as chat's `response_format` but flat."""
    verbosity: Literal["low", "medium", "high"] | None = None


class ReasoningOptions(msgspec.Struct, kw_only=True):
    """How the model reasons. Summaries are not made: the reasoning itself is returned."""

    effort: ReasoningEffort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class ResponseRequest(ConstrainedOptions, kw_only=True):
    """The fields of a request; `fields.py` says what each does."""

    input: str | list[InputItem] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=2**32 - 1)] | None = None
    max_tool_calls: Annotated[int, Meta(ge=1, le=2**32 - 1)] | None = None
    top_logprobs: UInt32 | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include_reasoning: bool | None = None
    thinking_token_budget: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    include: list[Includable] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    metadata: Metadata | None = None
    store: bool | None = None
    background: bool | None = None
    service_tier: str | None = None
    user: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    def check_combinations(self) -> None:
        """Refuse fields that exclude each other."""
        super().check_combinations()
        if not self.input and self.previous_response_id is None:
            raise ApiError(400, "input: required.", param="input")
        if self.background and self.store is False:
            raise ApiError(400, "background: needs store to be true.", param="background")
        if self.truncation == "auto" and self.truncate_prompt_tokens is not None:
            message = "truncate_prompt_tokens: excludes truncation auto."
            raise ApiError(400, message, param="truncate_prompt_tokens")

    @property
    def returns_logprobs(self) -> bool:
        """Whether the text comes with log probabilities."""
        return "message.output_text.logprobs" in (self.include or ()) or bool(self.top_logprobs)

    @property
    def returns_sealed_reasoning(self) -> bool:
        """Whether reasoning comes in a form to send back, too."""
        return "reasoning.encrypted_content" in (self.include or ())


def parse_response_request(body: bytes) -> ResponseRequest:
    """Parse and check a request body.

    Raises:
        ApiError: 400; it names the field.
    """
    return parse_request(body, ResponseRequest, Endpoint.RESPONSES)


def response_spec(request: ResponseRequest) -> inference_pb2.GenerationSpec:
    """Translate all but the conversation and its tools into the contract.

    Raises:
        ApiError: 400; it names the field.
    """
    spec = inference_pb2.GenerationSpec()
    apply_options(spec, request, Endpoint.RESPONSES)
    if request.max_output_tokens is not None:
        spec.stopping.max_tokens = request.max_output_tokens
    if request.returns_logprobs:
        spec.output.logprobs = request.top_logprobs or 0
    if request.include_reasoning is False:
        spec.reasoning.exclude = True
    if request.thinking_token_budget is not None and request.thinking_token_budget >= 0:
        spec.reasoning.max_tokens = request.thinking_token_budget
    if request.truncation == "auto":
        spec.truncate_prompt_tokens = -1
        spec.truncation_side = inference_pb2.TRUNCATION_SIDE_LEFT
    _apply_format(spec, request)
    return spec


def _apply_format(spec: inference_pb2.GenerationSpec, request: ResponseRequest) -> None:
    apply_constraint(spec, request)
    if request.text is None or request.text.format is None:
        return
    constraint = format_constraint(request.text.format, "text.format")
    if constraint is None:
        return
    if spec.HasField("constraint"):
        message = "structured_outputs: excludes text.format; expected one constraint."
        raise ApiError(400, message, param="structured_outputs")
    spec.constraint.CopyFrom(constraint)


def write_options(chat: chat_pb2.Chat, request: ResponseRequest, toolbox: Toolbox) -> None:
    """Write what a request says about its conversation beside the messages.

    Raises:
        ApiError: 400; it names the field.
    """
    toolbox.write(chat, request.tool_choice, request.parallel_tool_calls)
    arguments = dict(request.chat_template_kwargs or {})
    if request.reasoning is not None and request.reasoning.effort is not None:
        arguments |= effort_arguments(request.reasoning.effort, arguments)
    if arguments:
        chat.template_arguments_json = msgspec.json.encode(arguments).decode()
