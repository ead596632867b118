"""The asynchronous client: the same calls as in `client.py`, awaited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeVar

import grpc
import grpc.aio

from pagewire.channel import CHANNEL_OPTIONS, DEFAULT_TARGET, DEFAULT_TIMEOUT_S, call_metadata, with_key
from pagewire.embedding import build_embed_request
from pagewire.errors import from_rpc_error
from pagewire.health import CHECK_METHOD, LIVE, check_request, is_serving
from pagewire.options import Options, build_spec, build_tokenize_request
from pagewire.spread_channel import SpreadChannel
from pagewire.v1 import inference_pb2, inference_pb2_grpc, models_pb2, models_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from types import TracebackType
    from typing import Unpack

    from pagewire.embedding import EmbedOptions, Inputs
    from pagewire.v1 import chat_pb2

    ChatMessage = Mapping[str, object] | chat_pb2.Message

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class AsyncStream:
    """The events of one generation: an asynchronous iterator of StreamGenerateResponse.

    Closing it, leaving its `async with` block, cancelling the task that reads it, or dropping it
    before its end cancels the generation.
    """

    started: inference_pb2.Started | None = None
    """What the server understood, from the first event on."""
    finished: inference_pb2.Finished | None = None
    """How the choices ended, and the usage; set by the last event."""

    def __init__(
        self,
        call: grpc.aio.UnaryStreamCall[
            inference_pb2.StreamGenerateRequest, inference_pb2.StreamGenerateResponse
        ],
    ) -> None:
        self._call = call
        self._events = _read(call)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> inference_pb2.StreamGenerateResponse:
        """Return the next event.

        Raises:
            PagewireError: the call failed.
        """
        event = await anext(self._events)
        match event.WhichOneof("event"):
            case "started":
                self.started = event.started
            case "finished":
                self.finished = event.finished
        return event

    async def texts(self) -> AsyncGenerator[str, None]:
        """Yield the text of the first choice, piece by piece.

        Raises:
            PagewireError: the call failed.
        """
        async for event in self:
            for choice in event.delta.choices:
                if choice.index == 0 and choice.text:
                    yield choice.text

    async def aclose(self) -> None:
        """Cancel the generation unless it has ended."""
        self._call.cancel()
        await self._events.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


async def _read(
    call: grpc.aio.UnaryStreamCall[inference_pb2.StreamGenerateRequest, inference_pb2.StreamGenerateResponse],
) -> AsyncGenerator[inference_pb2.StreamGenerateResponse, None]:
    """Yield a call's events. grpc.aio does not cancel a call that is dropped; this generator does."""
    try:
        async for event in call:
            yield event
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
    finally:
        call.cancel()


class AsyncClient:
    """A Pagewire server, for one event loop, over as many connections as the calls need."""

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        api_key: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        metadata: Mapping[str, str] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Set up a channel; arguments are those of `Client`. Make it inside a running loop."""
        self._timeout = timeout
        self._metadata = with_key(metadata, api_key)
        self._channel = SpreadChannel(target, CHANNEL_OPTIONS, credentials)
        self._inference: inference_pb2_grpc.InferenceServiceAsyncStub = (
            inference_pb2_grpc.InferenceServiceStub(self._channel.for_stubs)
        )
        self._models: models_pb2_grpc.ModelServiceAsyncStub = models_pb2_grpc.ModelServiceStub(
            self._channel.for_stubs
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls that are open are cancelled."""
        await self._channel.close()

    async def generate(
        self,
        prompt: str | Sequence[int] | None = None,
        *,
        messages: Sequence[ChatMessage] | None = None,
        spec: inference_pb2.GenerationSpec | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        **options: Unpack[Options],
    ) -> inference_pb2.GenerateResponse:
        """Generate, and return once all is there; see `Client.generate`.

        Raises:
            PagewireError: the call failed.
        """
        request = inference_pb2.GenerateRequest(spec=build_spec(prompt, messages, spec, options))
        return await self._call(self._inference.Generate, request, timeout, request_id)

    async def chat(
        self,
        messages: Sequence[ChatMessage],
        *,
        timeout: float | None = None,
        request_id: str | None = None,
        **options: Unpack[Options],
    ) -> inference_pb2.GenerateResponse:
        """Answer a chat; short for `generate(messages=…)`."""
        return await self.generate(messages=messages, timeout=timeout, request_id=request_id, **options)

    def stream(
        self,
        prompt: str | Sequence[int] | None = None,
        *,
        messages: Sequence[ChatMessage] | None = None,
        spec: inference_pb2.GenerationSpec | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        **options: Unpack[Options],
    ) -> AsyncStream:
        """Start a generation and return its events as they come; see `Client.stream`.

        Raises:
            InvalidRequestError: the arguments make no request. Other errors come from the iterator.
        """
        request = inference_pb2.StreamGenerateRequest(spec=build_spec(prompt, messages, spec, options))
        call = self._inference.StreamGenerate(
            request,
            timeout=self._timeout if timeout is None else timeout,
            metadata=call_metadata(request_id, self._metadata),
        )
        return AsyncStream(call)

    async def embed(
        self,
        inputs: Inputs | None = None,
        *,
        messages: Sequence[ChatMessage] | None = None,
        timeout: float | None = None,
        request_id: str | None = None,
        **options: Unpack[EmbedOptions],
    ) -> inference_pb2.EmbedResponse:
        """Turn each input into a vector; see `Client.embed`.

        Raises:
            PagewireError: the call failed.
        """
        request = build_embed_request(inputs, messages, options)
        return await self._call(self._inference.Embed, request, timeout, request_id)

    async def tokenize(
        self,
        text: str | None = None,
        *,
        messages: Sequence[ChatMessage] | None = None,
        model: str = "",
        add_special_tokens: bool | None = None,
        timeout: float | None = None,
    ) -> list[int]:
        """Return the token ids of a text or a chat.

        Raises:
            PagewireError: the call failed.
        """
        request = build_tokenize_request(text, messages, model, add_special_tokens)
        response = await self._call(self._models.Tokenize, request, timeout, None)
        return list(response.token_ids)

    async def detokenize(
        self,
        token_ids: Sequence[int],
        *,
        model: str = "",
        skip_special_tokens: bool = False,
        timeout: float | None = None,
    ) -> str:
        """Return the text of token ids.

        Raises:
            PagewireError: the call failed.
        """
        request = models_pb2.DetokenizeRequest(
            model=model, token_ids=token_ids, skip_special_tokens=skip_special_tokens
        )
        response = await self._call(self._models.Detokenize, request, timeout, None)
        return response.text

    async def models(self, *, timeout: float | None = None) -> list[models_pb2.Model]:
        """Return the served models.

        Raises:
            PagewireError: the call failed.
        """
        response = await self._call(self._models.ListModels, models_pb2.ListModelsRequest(), timeout, None)
        return list(response.models)

    async def is_ready(self, *, timeout: float | None = None) -> bool:
        """Ask the server's health service whether requests are accepted.

        Raises:
            PagewireError: the call failed, which includes a server that cannot be reached.
        """
        return await self._check_health("", timeout)

    async def is_live(self, *, timeout: float | None = None) -> bool:
        """Ask whether the server's process answers, whatever its engine does.

        Raises:
            PagewireError: the call failed, which includes a server that cannot be reached.
        """
        return await self._check_health(LIVE, timeout)

    async def _check_health(self, service: str, timeout: float | None) -> bool:
        check = self._channel.unary_unary(
            CHECK_METHOD, request_serializer=check_request, response_deserializer=is_serving
        )
        return await self._call(check, service, timeout, None)

    async def _call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        timeout: float | None,
        request_id: str | None,
    ) -> ResponseT:
        try:
            return await method(
                request,
                timeout=self._timeout if timeout is None else timeout,
                metadata=call_metadata(request_id, self._metadata),
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
