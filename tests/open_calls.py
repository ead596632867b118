"""Calls of every kind that are open when something breaks, and what came of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc.aio
import httpx
from calls import details_of

from pagewire.v1 import inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

CHAT = [{"role": "user", "content": "hi"}]
MODEL = "tiny-model"
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": CHAT},
    "/v1/completions": {"prompt": "hi"},
    "/v1/messages": {"messages": CHAT},
    "/v1/responses": {"input": "hi"},
}
LOST = {
    "gRPC stream": {("UNAVAILABLE", "ENGINE_UNAVAILABLE")},
    "gRPC unary": {("UNAVAILABLE", "ENGINE_UNAVAILABLE")},
    "/v1/chat/completions": {("200", "engine_unavailable"), ("503", "engine_unavailable")},
    "/v1/completions": {("200", "engine_unavailable"), ("503", "engine_unavailable")},
    "/v1/messages": {("200", "overloaded_error"), ("503", "overloaded_error")},
    "/v1/responses": {("200", "server_error"), ("503", "engine_unavailable")},
}
"""How the calls of each kind end when the engine is lost: streams of HTTP have begun with 200."""
GOOD_ENDS = ("[DONE]", '"finish_reason":"', "message_stop", "response.completed", "response.incomplete")


@dataclass(frozen=True)
class End:
    """How a call ended."""

    kind: str
    error: str
    """A stable name of the error; empty where there is none."""
    status: str
    """Of gRPC or HTTP."""
    has_good_end: bool
    """Whether the caller was told that the output is complete."""
    num_tokens: int = 0

    @property
    def is_lost(self) -> bool:
        """Whether the caller was told that the engine was lost, and nothing else."""
        return (self.status, self.error) in LOST[self.kind] and not self.has_good_end


def spec(max_tokens: int) -> inference_pb2.GenerationSpec:
    stopping = inference_pb2.Stopping(max_tokens=max_tokens, ignore_eos=True)
    return inference_pb2.GenerationSpec(text="hi", stopping=stopping)


async def grpc_stream(channel: grpc.aio.Channel, max_tokens: int = 4000, **call: Any) -> End:
    stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
    has_finished, num_tokens = False, 0
    try:
        async for event in stub.StreamGenerate(
            inference_pb2.StreamGenerateRequest(spec=spec(max_tokens)), **call
        ):
            has_finished = has_finished or event.HasField("finished")
            num_tokens += sum(choice.num_tokens for choice in event.delta.choices)
    except grpc.aio.AioRpcError as error:
        return End("gRPC stream", reason_of(error), error.code().name, has_finished, num_tokens)
    return End("gRPC stream", "", "OK", has_finished, num_tokens)


async def grpc_unary(channel: grpc.aio.Channel, max_tokens: int = 4000, **call: Any) -> End:
    stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
    try:
        answer = await stub.Generate(inference_pb2.GenerateRequest(spec=spec(max_tokens)), **call)
    except grpc.aio.AioRpcError as error:
        return End("gRPC unary", reason_of(error), error.code().name, has_good_end=False)
    return End("gRPC unary", "", "OK", True, answer.usage.num_completion_tokens)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The reason in the details, if the server wrote any."""
    if "grpc-status-details-bin" not in dict(error.trailing_metadata() or ()):
        return ""
    return str(details_of(error)["ErrorInfo"].reason)


def body(path: str, max_tokens: int, *, stream: bool) -> dict[str, Any]:
    limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    return {"model": MODEL, limit: max_tokens, "stream": stream, **BODIES[path]}


async def http_stream(client: httpx.AsyncClient, path: str, max_tokens: int = 4000) -> End:
    text = ""
    async with client.stream("POST", path, json=body(path, max_tokens, stream=True)) as response:
        try:
            async for part in response.aiter_text():
                text += part
        except httpx.RemoteProtocolError:
            return End(path, "cut", str(response.status_code), any(end in text for end in GOOD_ENDS))
        if response.status_code != 200:
            return End(path, error_code(json.loads(text)), str(response.status_code), has_good_end=False)
    frames = text.removesuffix("\n\n").split("\n\n")
    last = frames[-1].rpartition("data: ")[2]
    error = "" if last == "[DONE]" else error_code(json.loads(last))
    return End(path, error, "200", any(end in text for end in GOOD_ENDS))


async def http_unary(client: httpx.AsyncClient, path: str, max_tokens: int = 4000) -> End:
    response = await client.post(path, json=body(path, max_tokens, stream=False))
    answer = response.json()
    failed = response.status_code != 200
    return End(path, error_code(answer) if failed else "", str(response.status_code), not failed)


def error_code(answer: dict[str, Any]) -> str:
    """The code of an error object, in whichever dialect."""
    error = answer.get("error") or answer.get("response", {}).get("error") or {}
    return str(error.get("code") or error.get("type") or "")


def all_kinds(
    channel: grpc.aio.Channel, client: httpx.AsyncClient, count: int, max_tokens: int = 4000
) -> list[Coroutine[Any, Any, End]]:
    """So many calls, half of them unary, half of them by HTTP, over all of its APIs."""
    kinds: list[Callable[[str], Coroutine[Any, Any, End]]] = [
        lambda _: grpc_stream(channel, max_tokens),
        lambda path: http_stream(client, path, max_tokens),
        lambda _: grpc_unary(channel, max_tokens),
        lambda path: http_unary(client, path, max_tokens),
    ]
    paths = list(BODIES)
    return [kinds[index % 4](paths[index // 4 % 4]) for index in range(count)]
