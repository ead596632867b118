"""A whole response from the events of a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pagewire.v1 import chat_pb2, inference_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable


async def fold(
    events: AsyncIterable[inference_pb2.StreamGenerateResponse],
) -> inference_pb2.GenerateResponse:
    """Return what the events of one stream say together."""
    response = inference_pb2.GenerateResponse()
    choices: dict[int, inference_pb2.Choice] = {}
    texts: dict[int, list[str]] = {}
    reasoning: dict[int, list[str]] = {}
    calls: dict[int, ToolCalls] = {}
    async for event in events:
        match event.WhichOneof("event"):
            case "started":
                response.started.CopyFrom(event.started)
            case "delta":
                for delta in event.delta.choices:
                    choice = choices.setdefault(delta.index, inference_pb2.Choice())
                    texts.setdefault(delta.index, []).append(delta.text)
                    reasoning.setdefault(delta.index, []).append(delta.reasoning_text)
                    calls.setdefault(delta.index, ToolCalls()).add(delta.tool_calls)
                    choice.token_ids.extend(delta.token_ids)
                    choice.logprobs.extend(delta.logprobs)
            case "finished":
                response.usage.CopyFrom(event.finished.usage)
                for end in event.finished.choices:
                    choice = choices.setdefault(end.index, inference_pb2.Choice())
                    choice.end.CopyFrom(end)
                    choice.text = "".join(texts.get(end.index, ()))
                    choice.reasoning_text = "".join(reasoning.get(end.index, ()))
                    choice.tool_calls.extend(calls.get(end.index, ToolCalls()).whole())
    response.choices.extend(choices[index] for index in sorted(choices))
    return response


class ToolCalls:
    """The calls of one choice, while their fragments come."""

    def __init__(self) -> None:
        self._calls: dict[int, tuple[str, str, list[str]]] = {}

    def add(self, fragments: Iterable[inference_pb2.ToolCallDelta]) -> None:
        """Take fragments. A call's first one holds its id and name."""
        for fragment in fragments:
            first: tuple[str, str, list[str]] = (fragment.id, fragment.name, [])
            self._calls.setdefault(fragment.index, first)[2].append(fragment.arguments)

    def whole(self) -> list[chat_pb2.ToolCall]:
        """Return the calls in their order."""
        return [
            chat_pb2.ToolCall(id=id_, name=name, arguments="".join(arguments))
            for _, (id_, name, arguments) in sorted(self._calls.items())
        ]
