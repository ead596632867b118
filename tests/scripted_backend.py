"""A translator over real sockets, and behind it a gRPC server that plays a script."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from pagewire.v1 import (
    admin_pb2_grpc,
    errors_pb2,
    inference_pb2,
    inference_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
)
from translator.admin_backend import AdminBackend
from translator.app import build_app
from translator.backend import Backend
from translator.config import TranslatorConfig
from translator.http_server import make_server
from translator.listener import open_listener

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    Event = inference_pb2.StreamGenerateResponse
    Script = Callable[[inference_pb2.GenerationSpec, Any], AsyncIterator[Event]]

MODEL = "org/tiny-model"
MAX_CHOICES = 128
BYE = 20.0
"""Longest wait of a test, in seconds, for something that must happen."""


def started(**fields: Any) -> Event:
    values: dict[str, Any] = {"model": MODEL, "num_prompt_tokens": 7, "num_cached_tokens": 2}
    return inference_pb2.StreamGenerateResponse(started=inference_pb2.Started(**(values | fields)))


def delta(text: str, index: int = 0, **fields: Any) -> Event:
    values: dict[str, Any] = {"num_tokens": 1}
    choice = inference_pb2.ChoiceDelta(index=index, text=text, **(values | fields))
    return inference_pb2.StreamGenerateResponse(delta=inference_pb2.Delta(choices=[choice]))


def finished(
    num_choices: int = 1,
    reason: inference_pb2.FinishReason.ValueType = inference_pb2.FINISH_REASON_STOP,
) -> Event:
    ends = [inference_pb2.ChoiceEnd(index=index, finish_reason=reason) for index in range(num_choices)]
    return inference_pb2.StreamGenerateResponse(finished=inference_pb2.Finished(choices=ends))


def plays(*events: Event) -> Script:
    """A script that sends these events."""

    async def script(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Event]:
        for event in events:
            yield event

    return script


def fails(code: grpc.StatusCode, message: str, *details: Any, after: tuple[Event, ...] = ()) -> Script:
    """A script that ends with a status as our server writes it."""

    async def script(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Event]:
        for event in after:
            yield event
        await abort(context, code, message, *details)

    return script


async def abort(context: Any, code: grpc.StatusCode, message: str, *details: Any) -> None:
    status = errors_pb2.ErrorStatus(code=code.value[0], message=message)
    for detail in details:
        name = type(detail).DESCRIPTOR.name
        packed = any_pb2.Any(
            type_url=f"type.googleapis.com/google.rpc.{name}", value=detail.SerializeToString()
        )
        status.details.append(packed)
    trailing = (("grpc-status-details-bin", status.SerializeToString()),) if details else ()
    await context.abort(code, message, trailing)


def reason(name: str) -> errors_pb2.ErrorInfo:
    return errors_pb2.ErrorInfo(reason=name, domain="pagewire")


def retry_in(seconds: float) -> errors_pb2.RetryInfo:
    delay = duration_pb2.Duration()
    delay.FromMilliseconds(int(seconds * 1000))
    return errors_pb2.RetryInfo(retry_delay=delay)


def refuses(*fields: tuple[str, str]) -> errors_pb2.BadRequest:
    violations = [errors_pb2.BadRequest.FieldViolation(field=f, description=d) for f, d in fields]
    return errors_pb2.BadRequest(field_violations=violations)


HELLO = plays(started(), delta("Hel"), delta("lo"), finished())


class Servicer(inference_pb2_grpc.InferenceServiceServicer, models_pb2_grpc.ModelServiceServicer):
    """Plays the script, and remembers what it was asked."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.script: Script = HELLO
        self.specs: list[inference_pb2.GenerationSpec] = []
        self.tokenize_requests: list[models_pb2.TokenizeRequest] = []
        self.embed_requests: list[inference_pb2.EmbedRequest] = []
        self.embed_refusal: tuple[Any, ...] | None = None
        """Status, message and details."""
        self.holds_embeddings = False
        self.metadata: list[dict[str, Any]] = []
        self.time_remaining_s: float = 0.0
        self.entered = threading.Semaphore(0)
        self.left = threading.Semaphore(0)
        self.not_ready: str | None = None

    async def StreamGenerate(
        self, request: inference_pb2.StreamGenerateRequest, context: Any
    ) -> AsyncIterator[Event]:
        self.specs.append(request.spec)
        self.metadata.append(dict(context.invocation_metadata()))
        self.time_remaining_s = context.time_remaining()
        left = self.left
        context.add_done_callback(lambda _: left.release())
        self.entered.release()
        if request.spec.sampling.HasField("n") and not 1 <= request.spec.sampling.n <= MAX_CHOICES:
            too_many = refuses(("spec.sampling.n", "out of range"))
            await abort(context, grpc.StatusCode.INVALID_ARGUMENT, "text", too_many)
        async for event in self.script(request.spec, context):
            yield event

    async def ListModels(
        self, request: models_pb2.ListModelsRequest, context: Any
    ) -> models_pb2.ListModelsResponse:
        await self._check_ready(context)
        return models_pb2.ListModelsResponse(models=[self._model()])

    async def GetModel(
        self, request: models_pb2.GetModelRequest, context: Any
    ) -> models_pb2.GetModelResponse:
        if request.name != MODEL:
            message = f"The model `{request.name}` does not exist."
            await abort(context, grpc.StatusCode.NOT_FOUND, message, reason("MODEL_NOT_FOUND"))
        return models_pb2.GetModelResponse(model=self._model())

    async def Generate(self, request: Any, context: Any) -> Any:
        """What a readiness probe calls."""
        await self._check_ready(context)
        await abort(context, grpc.StatusCode.INVALID_ARGUMENT, "text", refuses(("spec", "is needed")))

    async def Tokenize(
        self, request: models_pb2.TokenizeRequest, context: Any
    ) -> models_pb2.TokenizeResponse:
        """One token for each character; of a chat, for each message."""
        self.tokenize_requests.append(request)
        self.time_remaining_s = context.time_remaining()
        await self._check_ready(context)
        is_text = request.WhichOneof("input") == "text"
        token_ids = [ord(each) for each in request.text] if is_text else range(len(request.chat.messages))
        texts = [f"<{token_id}>" for token_id in token_ids] if request.token_texts else []
        return models_pb2.TokenizeResponse(token_ids=token_ids, token_texts=texts, max_model_len=64)

    async def Detokenize(
        self, request: models_pb2.DetokenizeRequest, context: Any
    ) -> models_pb2.DetokenizeResponse:
        self.time_remaining_s = context.time_remaining()
        if any(token_id > 0x10FF for token_id in request.token_ids):
            invalid = refuses(("token_ids[0]", "not a token id"))
            await abort(context, grpc.StatusCode.INVALID_ARGUMENT, "text", invalid)
        return models_pb2.DetokenizeResponse(text="".join(map(chr, request.token_ids)))

    async def GetTokenizerInfo(
        self, request: models_pb2.GetTokenizerInfoRequest, context: Any
    ) -> models_pb2.GetTokenizerInfoResponse:
        return models_pb2.GetTokenizerInfoResponse(tokenizer_config_json='{"eos_token":"<end>"}')

    async def Embed(self, request: inference_pb2.EmbedRequest, context: Any) -> inference_pb2.EmbedResponse:
        """Vectors of the input's place, a third and -1; held while `holds_embeddings`."""
        self.embed_requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        left = self.left
        context.add_done_callback(lambda _: left.release())
        self.entered.release()
        if self.embed_refusal is not None:
            await abort(context, *self.embed_refusal)
        if self.holds_embeddings:
            await asyncio.Event().wait()
        size = min(request.dimensions or 3, 4096)
        return inference_pb2.EmbedResponse(
            model=MODEL,
            embeddings=[
                inference_pb2.Embedding(values=([index, 1 / 3] + [-1] * size)[:size], num_tokens=2)
                for index in range(len(request.inputs))
            ],
            num_prompt_tokens=2 * len(request.inputs),
        )

    async def RenderChat(self, request: Any, context: Any) -> Any:
        raise AssertionError("no route calls it")

    async def _check_ready(self, context: Any) -> None:
        if self.not_ready is not None:
            unavailable = grpc.StatusCode.UNAVAILABLE
            await abort(context, unavailable, self.not_ready, reason("NOT_READY"), retry_in(0.05))

    def _model(self) -> models_pb2.Model:
        model = models_pb2.Model(name=MODEL, root="tiny", max_model_len=64, can_generate=True)
        model.has_chat_template = True
        model.default_sampling.temperature = 0.2
        model.created.seconds = 1_700_000_000
        return model


class House:
    """Both processes in one background thread, over real sockets."""

    def __init__(self, stats: admin_pb2_grpc.AdminServiceServicer | None = None, **config: Any) -> None:
        self.servicer = Servicer()
        self._stats = stats
        self._config = config
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._grpc_port = 0
        self._grpc_server: grpc.aio.Server | None = None
        self.call(self._start())

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the background loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(BYE)

    async def _start(self) -> None:
        await self._start_backend()
        config = TranslatorConfig(grpc_target=f"127.0.0.1:{self._grpc_port}", port=0, **self._config)
        listener = open_listener(config.host, config.port)
        self.port = listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.backend = Backend(config.grpc_target, config.request_timeout_s)
        self.stats_backend = AdminBackend(config.grpc_target, config.request_timeout_s)
        app = build_app(config, self.backend, stats=self.stats_backend if self._stats else None)
        self.server = make_server(app, self.backend, config)
        self._serving = asyncio.create_task(self.server.serve(sockets=[listener]))
        # The socket listens from now on; a connection waits in its backlog until the server takes it.
        listener.listen()

    async def _start_backend(self) -> None:
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self.servicer, server)
        models_pb2_grpc.add_ModelServiceServicer_to_server(self.servicer, server)
        if self._stats is not None:
            admin_pb2_grpc.add_AdminServiceServicer_to_server(self._stats, server)
        self.health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        self._grpc_port = server.add_insecure_port(f"127.0.0.1:{self._grpc_port}")
        await server.start()
        await self.health.set("", health_pb2.HealthCheckResponse.SERVING)
        self._grpc_server = server

    def start_backend(self) -> None:
        """Start the gRPC server again, on its old port."""
        self.call(self._start_backend())

    def stop_backend(self) -> None:
        """Stop the gRPC server at once, as if it had crashed."""
        assert self._grpc_server is not None
        self.call(self._grpc_server.stop(0))

    def set_serving(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        self.call(self.health.set("", status.SERVING if serving else status.NOT_SERVING))

    def wait_closed(self) -> None:
        """Wait until the translator has drained."""

        async def wait() -> None:
            await self._serving

        self.call(wait())

    def close(self) -> None:
        async def stop() -> None:
            self.server.stop()
            self.backend.cut()
            await self._serving
            await self.backend.close()
            await self.stats_backend.close()
            if self._grpc_server is not None:
                await self._grpc_server.stop(0)

        self.call(stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(BYE)
        self._loop.close()


@contextmanager
def serving(stats: admin_pb2_grpc.AdminServiceServicer | None = None, **config: Any) -> Iterator[House]:
    """Run a house with this translator configuration, and an AdminService if one is given."""
    house = House(stats, **config)
    try:
        yield house
    finally:
        house.close()
