"""A whole response from the events of a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pagewire.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterable


async def fold(
    events: AsyncIterable[inference_pb2.StreamGenerateResponse],
) -> inference_pb2.GenerateResponse:
    """Return what the events of one stream say together."""
    response = inference_pb2.GenerateResponse()
    choices: dict[int, inference_pb2.Choice] = {}
    texts: dict[int, list[str]] = {}
    async for event in events:
        match event.WhichOneof("event"):
            case "started":
                response.started.CopyFrom(event.started)
            case "delta":
                for delta in event.delta.choices:
                    choice = choices.setdefault(delta.index, inference_pb2.Choice())
                    texts.setdefault(delta.index, []).append(delta.text)
                    choice.token_ids.extend(delta.token_ids)
                    choice.logprobs.extend(delta.logprobs)
            case "finished":
                response.usage.CopyFrom(event.finished.usage)
                for end in event.finished.choices:
                    choice = choices.setdefault(end.index, inference_pb2.Choice())
                    choice.end.CopyFrom(end)
                    choice.text = "".join(texts.get(end.index, ()))
    response.choices.extend(choices[index] for index in sorted(choices))
    return response
