"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from pagewire.v1 import inference_pb2, models_pb2
from translator.errors import ApiError
from translator.fields import Endpoint
from translator.generate import Answer, generate
from translator.json_body import parse_json
from translator.message_blocks import Added, BlockOrder, Closed, Opened
from translator.message_events import MESSAGE_STREAM, MessageEvents
from translator.message_request import MessageRequest, parse_message_prompt, parse_message_request
from translator.message_spec import message_spec, write_chat
from translator.message_usage import MessageUsage, stop_of
from translator.patience import patience_of
from translator.requests import backend_of, read_parsed, request_id_of, until_disconnect
from translator.sse import encode_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.requests import Request

    from translator.generation_group import GenerationGroup
    from translator.message_blocks import BlockEvent


async def create_message(request: Request) -> Response:
    """Answer a conversation, at once or as a stream."""
    message = await read_parsed(request, parse_message_request)
    return await generate(request, [message_spec(message)], Endpoint.MESSAGES, MessageAnswer(message))


async def count_tokens(request: Request) -> Response:
    """Count the tokens of a prompt."""
    prompt = await read_parsed(request, parse_message_prompt)
    tokenize = models_pb2.TokenizeRequest(model=prompt.model or "")
    write_chat(tokenize.chat, prompt)
    call = backend_of(request).tokenize(
        tokenize, request_id_of(request), Endpoint.MESSAGES, patience_of(request, streams=False)
    )
    tokens = await until_disconnect(request.receive, call)
    return Response(encode_json({"input_tokens": len(tokens.token_ids)}), media_type="application/json")


class MessageAnswer(Answer):
    """Renders messages."""

    id_prefix = "msg_"
    stream_format = MESSAGE_STREAM

    def __init__(self, request: MessageRequest) -> None:
        self._request = request
        self.streams = bool(request.stream)

    def chunks(self, response_id: str, starts: Mapping[int, inference_pb2.Started]) -> MessageEvents:
        """Return the renderer of a stream."""
        return MessageEvents(self._request, _empty_message(response_id, starts[0]), starts[0])

    async def whole(
        self, response_id: str, starts: Mapping[int, inference_pb2.Started], group: GenerationGroup
    ) -> dict[str, Any]:
        """Return the body of a response in one piece: the fold of the events that a stream sends."""
        started = starts[0]
        message = _empty_message(response_id, started)
        order, usage = BlockOrder(), MessageUsage(started, self._request.marks_cache())
        async with aclosing(group.events()) as events:
            async for _, event in events:
                if isinstance(event, inference_pb2.Delta):
                    for choice in event.choices:
                        usage.add(choice.num_tokens)
                        fold_blocks(message["content"], order.add(choice))
                elif isinstance(event, inference_pb2.Finished):
                    fold_blocks(message["content"], order.end())
                    usage.finish(event.usage)
                    message |= stop_of(
                        event.choices[0],
                        started,
                        self._request.max_tokens,
                        has_calls=order.has_calls,
                    )
        return message | {"usage": usage.as_dict()}


def _empty_message(response_id: str, started: inference_pb2.Started) -> dict[str, Any]:
    return {
        "id": response_id,
        "type": "message",
        "role": "assistant",
        "model": started.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def fold_blocks(content: list[dict[str, Any]], events: Iterable[BlockEvent]) -> None:
    """Apply events to a message's content."""
    for event in events:
        match event:
            case Opened(kind="tool_use"):
                content.append(
                    {"type": "tool_use", "id": event.tool_id, "name": event.tool_name, "input": ""}
                )
            case Opened(kind="thinking"):
                content.append({"type": "thinking", "thinking": "", "signature": ""})
            case Opened():
                content.append({"type": "text", "text": ""})
            case Added():
                content[event.index][_TEXT_OF[event.kind]] += event.text
            case Closed():
                block = content[event.index]
                if block["type"] == "tool_use":
                    block["input"] = _arguments(block["input"])


_TEXT_OF = {"thinking": "thinking", "text": "text", "tool_use": "input"}


def _arguments(text: str) -> dict[str, Any]:
    """A call's arguments. Where they are no JSON object that could be sent back, their text is handed on.

    Those of a call that was cut are none; nor are those with half of a surrogate pair, or a number beyond a
    double: a model may write both.
    """
    try:
        arguments = parse_json(text.encode() or b"{}")
    except ApiError:
        arguments = None
    return arguments if isinstance(arguments, dict) else {"INVALID_JSON": text}
