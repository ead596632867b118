"""The gRPC server as the translator sees it: its connections, and the generations that run over them."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, TypeVar, cast

import grpc

from pagewire.channel import CHANNEL_OPTIONS
from pagewire.health import CHECK_METHOD, check_request, is_serving
from pagewire.operation import begin, is_cancelled
from pagewire.spread_channel import SpreadChannel
from pagewire.v1 import inference_pb2, inference_pb2_grpc, models_pb2, models_pb2_grpc
from translator.caller import caller_metadata
from translator.embedding_call import EmbeddingCall
from translator.errors import ApiError, deadline_exceeded, from_rpc_error, internal_error, shutting_down
from translator.fields import Endpoint
from translator.metrics import Metrics
from translator.patience import ENDLESS
from watch.loop_lag import LoopLag

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection

    from google.protobuf.message import Message

    from translator.metrics import GenerationMeter
    from translator.patience import Patience

    GenerationCall = grpc.aio.UnaryStreamCall[
        inference_pb2.StreamGenerateRequest, inference_pb2.StreamGenerateResponse
    ]

log = logging.getLogger("translator")

Asked = TypeVar("Asked", bound="Message")
Answered = TypeVar("Answered", bound="Message")
Event = inference_pb2.Delta | inference_pb2.Finished
PROBE_TIMEOUT_S = 2.0
_GIVEN_UP = 499
_NOT_READY_REASON = "pagewire-not-ready-reason"
# A server that comes back is found again within a second. Calls are not retried here: HTTP clients retry
# a 503 themselves, and they are told when.
BACKEND_OPTIONS = (
    *(option for option in CHANNEL_OPTIONS if option[0] != "grpc.service_config"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # how long one attempt may take, whatever its name says
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # What a reader does not take stays with the server, which makes larger deltas of it. Here is little room.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 64 * 1024),
    ("grpc.primary_user_agent", "pagewire-translator"),
)


class Generation:
    """A StreamGenerate call, opened again where there was no room for it.

    Whoever opened it calls `cancel` in the end, finished or not.
    """

    def __init__(
        self,
        open_call: Callable[[Generation], GenerationCall],
        endpoint: Endpoint,
        given: Collection[str],
        timeout_s: float,
        meter: GenerationMeter,
    ) -> None:
        self._deadline_s = time.monotonic() + timeout_s
        self._open_call = open_call
        self._call = open_call(self)
        self._endpoint = endpoint
        self._given = given
        self._meter = meter
        self._cut: ApiError | None = None
        self._status = _GIVEN_UP
        """What is counted where it is given up."""

    @property
    def left_s(self) -> float:
        """Until its deadline."""
        return max(0.0, self._deadline_s - time.monotonic())

    async def start(self) -> inference_pb2.Started:
        """Wait until the server has admitted the request.

        Raises:
            ApiError: it was refused, or the server is not there.
        """
        response = await self._read()
        if response is None or not response.HasField("started"):
            log.error("the model server broke the contract: its first event is not `started`")
            raise internal_error()
        self._meter.start(response.started)
        return response.started

    def reopen(self) -> None:
        """Ask again after a refusal for want of room. The deadline stays.

        Raises:
            ApiError: 503; the translator is shutting down.
        """
        self._status = _GIVEN_UP
        self._call = self._open_call(self)

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield the deltas, then `finished`.

        Raises:
            ApiError: the generation failed.
        """
        while (response := await self._read()) is not None:
            if response.HasField("delta"):
                self._meter.add(response.delta)
                yield response.delta
            elif response.HasField("finished"):
                self._meter.finish(response.finished)
                yield response.finished
                await self._call.code()  # lets the call end by itself
                return
        log.error("the model server broke the contract: a stream ended without `finished`")
        raise internal_error()

    def cut(self, error: ApiError) -> None:
        """End the call now; its reader gets this error, or the one before that ended it."""
        if self._cut is None:
            self._cut = error
            self._status = error.status
        self._call.cancel()

    def cancel(self) -> None:
        """Give the call up, so that the server stops generating."""
        self._meter.fail(self._status)
        self._call.cancel()

    async def _read(self) -> inference_pb2.StreamGenerateResponse | None:
        try:
            response = await begin(self._call.read())
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(error, self._endpoint, self._given)
            if failure.is_overload:
                self._status = failure.status
            else:
                self._meter.fail(failure.status)
            raise failure from error
        except asyncio.CancelledError:
            if self._cut is None or is_cancelled():
                raise
            self._meter.fail(self._cut.status)
            raise self._cut from None
        if response is grpc.aio.EOF:
            return None
        return cast("inference_pb2.StreamGenerateResponse", response)


class Backend:
    """The connections to the gRPC server. Made within a running event loop; they come back by themselves."""

    def __init__(
        self, target: str, request_timeout_s: float, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        """Without `credentials` the server is called in clear text."""
        self._lag = LoopLag()
        self.metrics = Metrics(self._lag)
        self._timeout_s = request_timeout_s
        self._channel = SpreadChannel(target, BACKEND_OPTIONS, credentials)
        self._inference: inference_pb2_grpc.InferenceServiceAsyncStub = (
            inference_pb2_grpc.InferenceServiceStub(self._channel.for_stubs)
        )
        self._models: models_pb2_grpc.ModelServiceAsyncStub = models_pb2_grpc.ModelServiceStub(
            self._channel.for_stubs
        )
        self._check_health: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            CHECK_METHOD
        )
        self._running: dict[grpc.aio.Call, Generation | EmbeddingCall] = {}
        """By the call."""
        self._draining = False
        self._last_reason = ""

    @property
    def num_running(self) -> int:
        """Generations and embeddings that are open."""
        return len(self._running)

    def generate(
        self,
        spec: inference_pb2.GenerationSpec,
        request_id: str,
        endpoint: Endpoint,
        given: Collection[str] = (),
        patience: Patience = ENDLESS,
    ) -> Generation:
        """Open a generation for a route, whose request has the fields `given`; its caller waits so long.

        Raises:
            ApiError: 503; the translator is shutting down.
        """
        timeout_s = min(self._timeout_s, patience.total_s)
        if patience.queue_s < timeout_s:
            spec.scheduling.queue_timeout.FromNanoseconds(round(patience.queue_s * 1e9))
        request = inference_pb2.StreamGenerateRequest(spec=spec)
        metadata = caller_metadata(request_id)

        def open_call(generation: Generation) -> GenerationCall:
            if self._draining:
                raise shutting_down()
            left_s = generation.left_s
            call = self._inference.StreamGenerate(request, timeout=left_s, metadata=metadata)
            self._add(call, generation, left_s)
            return call

        return Generation(open_call, endpoint, given, timeout_s, self.metrics.measure())

    def embed(
        self,
        request: inference_pb2.EmbedRequest,
        request_id: str,
        endpoint: Endpoint,
        patience: Patience = ENDLESS,
    ) -> EmbeddingCall:
        """Begin to embed for a caller who waits so long.

        Raises:
            ApiError: 503; the translator is shutting down.
        """
        if self._draining:
            raise shutting_down()
        timeout_s = min(self._timeout_s, patience.total_s)
        call = self._inference.Embed(request, timeout=timeout_s, metadata=caller_metadata(request_id))
        embedding = EmbeddingCall(call, endpoint)
        self._add(call, embedding, timeout_s)
        return embedding

    def _add(self, call: grpc.aio.Call, running: Generation | EmbeddingCall, timeout_s: float) -> None:
        """Keep a call until it ends, at its deadline at the latest.

        gRPC tells the server when that is; its own timer fires tens of milliseconds late.
        """
        timer = asyncio.get_running_loop().call_later(timeout_s, running.cut, deadline_exceeded())

        def remove(_: object) -> None:
            timer.cancel()
            del self._running[call]

        self._running[call] = running
        call.add_done_callback(remove)

    async def list_models(self) -> list[models_pb2.Model]:
        """Return the served models.

        Raises:
            ApiError: the server is not there or not ready.
        """
        try:
            response = await self._models.ListModels(
                models_pb2.ListModelsRequest(), timeout=PROBE_TIMEOUT_S, metadata=caller_metadata()
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, Endpoint.BOTH) from error
        return list(response.models)

    async def get_model(self, name: str) -> models_pb2.Model:
        """Return one model.

        Raises:
            ApiError: 404; there is none of this name. Others: the server is not there or not ready.
        """
        try:
            response = await self._models.GetModel(
                models_pb2.GetModelRequest(name=name), timeout=PROBE_TIMEOUT_S, metadata=caller_metadata()
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, Endpoint.BOTH) from error
        return response.model

    async def tokenize(
        self, request: models_pb2.TokenizeRequest, request_id: str, endpoint: Endpoint, patience: Patience
    ) -> models_pb2.TokenizeResponse:
        """Turn text or a chat into token ids for a caller who waits so long.

        Raises:
            ApiError: the request was refused, or the server is not there.
        """
        return await self._answer(self._models.Tokenize, request, request_id, endpoint, patience)

    async def detokenize(
        self, request: models_pb2.DetokenizeRequest, request_id: str, endpoint: Endpoint, patience: Patience
    ) -> models_pb2.DetokenizeResponse:
        """Turn token ids into text for a caller who waits so long.

        Raises:
            ApiError: the request was refused, or the server is not there.
        """
        return await self._answer(self._models.Detokenize, request, request_id, endpoint, patience)

    async def tokenizer_info(
        self, request: models_pb2.GetTokenizerInfoRequest, request_id: str, patience: Patience
    ) -> models_pb2.GetTokenizerInfoResponse:
        """Return the tokenizer's settings to a caller who waits so long.

        Raises:
            ApiError: the request was refused, or the server is not there.
        """
        return await self._answer(self._models.GetTokenizerInfo, request, request_id, Endpoint.BOTH, patience)

    async def _answer(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Asked, Answered],
        request: Asked,
        request_id: str,
        endpoint: Endpoint,
        patience: Patience,
    ) -> Answered:
        timeout_s = min(self._timeout_s, patience.total_s)
        metadata = caller_metadata(request_id)
        try:
            return await method(request, timeout=timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, endpoint) from error

    async def not_ready_reason(self) -> str | None:
        """Return why no request can be served now; None if it can."""
        if self._draining:
            return shutting_down().message
        try:
            call = self._check_health(check_request(""), timeout=PROBE_TIMEOUT_S)
            response = await call
            said = dict(await call.trailing_metadata() or ()).get(_NOT_READY_REASON)
        except grpc.aio.AioRpcError as error:
            return self._with_last_reason(from_rpc_error(error, Endpoint.BOTH).message)
        if is_serving(response):
            self._last_reason = ""
            return None
        self._last_reason = said if isinstance(said, str) else await self._reason_of_refusal()
        return self._last_reason

    def _with_last_reason(self, message: str) -> str:
        """Add why the server was not ready when it could be asked: it may have ended of that."""
        return f"{message} At last it said: {self._last_reason}" if self._last_reason else message

    async def _reason_of_refusal(self) -> str:
        """Ask for nothing: a server that is not ready says why before it looks at the request."""
        try:
            await self._inference.Generate(inference_pb2.GenerateRequest(), timeout=PROBE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return from_rpc_error(error, Endpoint.BOTH).message
        return "The model server is not serving."

    def drain(self) -> None:
        """Refuse new generations and embeddings from now on."""
        self._draining = True

    def cut(self) -> None:
        """End what still runs, each with an error."""
        for running in tuple(self._running.values()):
            running.cut(shutting_down())

    async def close(self) -> None:
        """Close the connections and what still runs over them."""
        self._lag.close()
        await self._channel.close()
