"""An assistant's message, whole and as the deltas of a stream: text, reasoning and tool calls.

Reasoning stands under two names, `reasoning_content` and `reasoning`: clients know one or the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from translator.sse import encode_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pagewire.v1 import inference_pb2
    from translator.folded import FoldedChoice


def whole_message(role: str, echoed: str, choice: FoldedChoice, calls_functions: bool) -> dict[str, Any]:
    """Return the message of a choice.

    Args:
        role: who speaks.
        echoed: stands before the text.
        choice: what was generated.
        calls_functions: whether a call is written in the old form.
    """
    text = echoed + choice.text
    calls = choice.calls.whole()
    message: dict[str, Any] = {"role": role, "content": text or None if calls else text, "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = message["reasoning"] = choice.reasoning
    if calls and calls_functions:
        message["function_call"] = {"name": calls[0].name, "arguments": calls[0].arguments}
    elif calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
    return message


def message_deltas(choice: inference_pb2.ChoiceDelta, calls_functions: bool) -> Iterator[bytes]:
    """Yield the encoded deltas of a choice's news, in OpenAI's pieces: a call's name before its arguments."""
    if choice.reasoning_text:
        reasoning = encode_text(choice.reasoning_text)
        yield b'{"reasoning_content":%b,"reasoning":%b}' % (reasoning, reasoning)
    if choice.text:
        yield b'{"content":%b}' % encode_text(choice.text)
    for call in choice.tool_calls:
        fragment = _function_fragment if calls_functions else _call_fragment
        if call.id:
            yield fragment(call, is_first=True)
        if call.arguments:
            yield fragment(call, is_first=False)


def _call_fragment(call: inference_pb2.ToolCallDelta, is_first: bool) -> bytes:
    if is_first:
        return (
            b'{"tool_calls":[{"index":%d,"id":%b,"type":"function","function":{"name":%b,"arguments":""}}]}'
            % (call.index, encode_text(call.id), encode_text(call.name))
        )
    arguments = encode_text(call.arguments)
    return b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}' % (call.index, arguments)


def _function_fragment(call: inference_pb2.ToolCallDelta, is_first: bool) -> bytes:
    if is_first:
        return b'{"function_call":{"name":%b,"arguments":""}}' % encode_text(call.name)
    return b'{"function_call":{"arguments":%b}}' % encode_text(call.arguments)
