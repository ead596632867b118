"""From a Messages request to the contract."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import msgspec

from pagewire.v1 import inference_pb2
from translator.fields import Endpoint
from translator.message_request import (
    AnyChoice,
    AssistantMessage,
    AutoChoice,
    NoChoice,
    PlainBlock,
    RedactedThinkingBlock,
    SystemMessage,
    TextBlock,
    ThinkingAdaptive,
    ThinkingBlock,
    ThinkingDisabled,
    ThinkingEnabled,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
)
from translator.schema import apply_plain
from translator.tools import FunctionTool, NamedTool, ToolMode, add_tools

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pagewire.v1 import chat_pb2
    from translator.message_request import Message, MessagePrompt, MessageRequest

Block = TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock | ToolResultBlock


def message_spec(request: MessageRequest) -> inference_pb2.GenerationSpec:
    """Translate a request into the contract."""
    spec = inference_pb2.GenerationSpec()
    apply_plain(spec, request, Endpoint.MESSAGES)
    spec.stopping.stop.extend(request.stop_sequences or ())
    write_chat(spec.chat, request)
    if isinstance(request.thinking, ThinkingEnabled):
        spec.reasoning.max_tokens = request.thinking.budget_tokens
    if isinstance(request.thinking, ThinkingEnabled | ThinkingAdaptive):
        spec.reasoning.exclude = request.thinking.display == "omitted"
    if request.output_config is not None and request.output_config.format is not None:
        schema = msgspec.json.encode(request.output_config.format.schema)
        spec.constraint.json_schema = schema.decode()
    return spec


def write_chat(chat: chat_pb2.Chat, prompt: MessagePrompt) -> None:
    """Write the conversation and the tools. Turns of one role in a row are one turn, as Anthropic has it."""
    if prompt.system:
        _add_text(chat, "system", _texts(prompt.system))
    for _, turn in groupby(prompt.messages, type):
        _add_turn(chat, list(turn))
    if isinstance(prompt.messages[-1], AssistantMessage):
        chat.add_generation_prompt = False
        chat.continue_final_message = True
    _add_tools(chat, prompt)
    arguments = _template_arguments(prompt)
    if arguments:
        chat.template_arguments_json = msgspec.json.encode(arguments).decode()


def _add_turn(chat: chat_pb2.Chat, turn: Sequence[Message]) -> None:
    if isinstance(turn[0], SystemMessage):
        _add_text(chat, "system", [text for message in turn for text in _texts(message.content)])
        return
    blocks: list[Block] = []
    for message in turn:
        assert not isinstance(message, SystemMessage)
        blocks += _blocks(message.content)
    if isinstance(turn[0], AssistantMessage):
        _add_assistant(chat, blocks)
    else:
        _add_user(chat, blocks)


def _texts(content: str | Sequence[PlainBlock | Block]) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [block.text for block in content if isinstance(block, PlainBlock | TextBlock)]


def _blocks(content: str | Sequence[Block]) -> Sequence[Block]:
    return [TextBlock(text=content)] if isinstance(content, str) else content


def _add_assistant(chat: chat_pb2.Chat, blocks: Sequence[Block]) -> None:
    message = chat.messages.add(role="assistant")
    _set_text(message, _texts(blocks))
    message.reasoning_text = "".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock))
    for block in blocks:
        if isinstance(block, ToolUseBlock):
            arguments = msgspec.json.encode(block.input).decode()
            message.tool_calls.add(id=block.id, name=block.name, arguments=arguments)
    if not message.tool_calls and message.WhichOneof("content") is None:
        message.text = ""


def _add_user(chat: chat_pb2.Chat, blocks: Iterable[Block]) -> None:
    """Text is the user's; each result is a message of a tool. Their order stays."""
    for kind, run in groupby(blocks, type):
        if kind is TextBlock:
            _add_text(chat, "user", _texts(list(run)))
            continue
        for block in run:
            assert isinstance(block, ToolResultBlock)
            message = chat.messages.add(role="tool", tool_call_id=block.tool_use_id)
            _set_text(message, _result_texts(block) or [""])


def _result_texts(result: ToolResultBlock) -> list[str]:
    """What the tool returned. Templates have no mark for a failure, so its text says it."""
    texts = _texts(result.content or ())
    if result.is_error:
        texts = [f"Error: {texts[0]}", *texts[1:]] if texts else ["Error"]
    return texts


def _add_text(chat: chat_pb2.Chat, role: str, texts: Sequence[str]) -> None:
    _set_text(chat.messages.add(role=role), texts)


def _set_text(message: chat_pb2.Message, texts: Sequence[str]) -> None:
    if len(texts) == 1:
        message.text = texts[0]
    else:
        for text in texts:
            message.parts.parts.add(text=text)


def _add_tools(chat: chat_pb2.Chat, prompt: MessagePrompt) -> None:
    choice = prompt.tool_choice
    mode: ToolMode | NamedTool | None = None
    match choice:
        case AutoChoice():
            mode = "auto"
        case AnyChoice():
            mode = "required"
        case ToolChoice():
            mode = NamedTool(choice.name)
        case NoChoice():
            mode = "none"
    one_call = None if choice is None or isinstance(choice, NoChoice) else choice.disable_parallel_tool_use
    add_tools(
        chat,
        [
            FunctionTool(tool.name, tool.description or "", tool.input_schema, bool(tool.strict))
            for tool in prompt.tools or ()
        ],
        mode,
        None if one_call is None else not one_call,
    )


def _template_arguments(prompt: MessagePrompt) -> dict[str, Any]:
    """Variables that templates of reasoning models know."""
    arguments: dict[str, Any] = {}
    if prompt.thinking is not None:
        arguments["enable_thinking"] = not isinstance(prompt.thinking, ThinkingDisabled)
    if prompt.output_config is not None and prompt.output_config.effort is not None:
        arguments["reasoning_effort"] = prompt.output_config.effort
    return arguments
