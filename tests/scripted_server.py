"""A real gRPC server whose answers a test writes down beforehand."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from pagewire.v1 import inference_pb2, inference_pb2_grpc, models_pb2, models_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Event = inference_pb2.StreamGenerateResponse

STARTED = inference_pb2.Started(request_id="r", model="m", num_prompt_tokens=3)


def delta(text: str, index: int = 0, reasoning_text: str = "") -> inference_pb2.StreamGenerateResponse:
    choice = inference_pb2.ChoiceDelta(index=index, text=text, reasoning_text=reasoning_text, num_tokens=1)
    return inference_pb2.StreamGenerateResponse(delta=inference_pb2.Delta(choices=[choice]))


def finished(num_completion_tokens: int = 2) -> inference_pb2.StreamGenerateResponse:
    end = inference_pb2.ChoiceEnd(finish_reason=inference_pb2.FINISH_REASON_STOP)
    return inference_pb2.StreamGenerateResponse(
        finished=inference_pb2.Finished(
            choices=[end],
            usage=inference_pb2.Usage(num_prompt_tokens=3, num_completion_tokens=num_completion_tokens),
        )
    )


class Script:
    """What the server does next, and what it has seen."""

    def __init__(self) -> None:
        self.requests: list[object] = []
        self.metadata: dict[str, str | bytes] = {}
        self.time_remaining: float | None = None
        self.cancelled = threading.Event()
        self.num_calls = 0
        self.fail: Callable[[grpc.ServicerContext], None] | None = None
        self.fail_after_start = False
        self.hold = False
        """Streams wait after their first delta until they are cancelled."""
        self.answer: Callable[[], Iterable[Event]] | None = None
        """What streams consist of after their start, in place of a city."""

    def enter(self, request: object, context: grpc.ServicerContext) -> None:
        self.num_calls += 1
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())
        self.time_remaining = context.time_remaining()
        context.add_callback(self.cancelled.set)
        if self.fail is not None and not self.fail_after_start:
            self.fail(context)

    @property
    def spec(self) -> inference_pb2.GenerationSpec:
        request = self.requests[-1]
        assert isinstance(request, inference_pb2.GenerateRequest | inference_pb2.StreamGenerateRequest)
        return request.spec


def rich_failure(code: int, message: str, *details: object) -> Callable[[grpc.ServicerContext], None]:
    """Fail as the server does: google.rpc details, and the request id in the trailers."""

    def fail(context: grpc.ServicerContext) -> None:
        packed = []
        for detail in details:
            packed.append(any_pb2.Any())
            packed[-1].Pack(detail)  # type: ignore[arg-type]
        status = rpc_status.to_status(status_pb2.Status(code=code, message=message, details=packed))
        context.abort_with_status(
            _Status(status.code, status.details, (*status.trailing_metadata, ("x-request-id", "request-7")))
        )

    return fail


class _Status(grpc.Status):
    def __init__(self, code: grpc.StatusCode, details: str, trailing_metadata: tuple[object, ...]) -> None:
        self.code = code
        self.details = details
        self.trailing_metadata = trailing_metadata  # type: ignore[assignment]


OVERLOADED = rich_failure(
    code_pb2.RESOURCE_EXHAUSTED,
    "the queue is full",
    error_details_pb2.ErrorInfo(reason="QUEUE_FULL", domain="pagewire"),
    error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000)),
)
INVALID = rich_failure(
    code_pb2.INVALID_ARGUMENT,
    "the request is not valid",
    error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field="spec.sampling.temperature", description="expected 0 to 2, got 9"
            )
        ]
    ),
)


class Inference(inference_pb2_grpc.InferenceServiceServicer):
    def Embed(
        self, request: inference_pb2.EmbedRequest, context: grpc.ServicerContext
    ) -> inference_pb2.EmbedResponse:
        self._script.enter(request, context)
        vectors = [inference_pb2.Embedding(values=[0.5, index]) for index in range(len(request.inputs))]
        return inference_pb2.EmbedResponse(model="m", embeddings=vectors)

    def __init__(self, script: Script) -> None:
        self._script = script

    def Generate(
        self, request: inference_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> inference_pb2.GenerateResponse:
        self._script.enter(request, context)
        return inference_pb2.GenerateResponse(
            started=STARTED, choices=[inference_pb2.Choice(text="Paris", end=finished().finished.choices[0])]
        )

    def StreamGenerate(
        self, request: inference_pb2.StreamGenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[inference_pb2.StreamGenerateResponse]:
        self._script.enter(request, context)
        yield inference_pb2.StreamGenerateResponse(started=STARTED)
        if self._script.answer is not None:
            yield from self._script.answer()
            return
        yield delta("Pa")
        if self._script.hold:
            self._script.cancelled.wait()
            return
        if self._script.fail is not None:
            self._script.fail(context)
        yield delta("other", index=1)
        yield delta("ris")
        yield finished()


class Models(models_pb2_grpc.ModelServiceServicer):
    def __init__(self, script: Script) -> None:
        self._script = script

    def ListModels(
        self, request: models_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> models_pb2.ListModelsResponse:
        self._script.enter(request, context)
        return models_pb2.ListModelsResponse(models=[models_pb2.Model(name="m", max_model_len=64)])

    def GetModel(
        self, request: models_pb2.GetModelRequest, context: grpc.ServicerContext
    ) -> models_pb2.GetModelResponse:
        raise AssertionError("no client calls it")

    def Tokenize(
        self, request: models_pb2.TokenizeRequest, context: grpc.ServicerContext
    ) -> models_pb2.TokenizeResponse:
        self._script.enter(request, context)
        return models_pb2.TokenizeResponse(token_ids=[5, 6])

    def Detokenize(
        self, request: models_pb2.DetokenizeRequest, context: grpc.ServicerContext
    ) -> models_pb2.DetokenizeResponse:
        self._script.enter(request, context)
        return models_pb2.DetokenizeResponse(text="hi")

    def RenderChat(
        self, request: models_pb2.RenderChatRequest, context: grpc.ServicerContext
    ) -> models_pb2.RenderChatResponse:
        raise AssertionError("no client calls it")

    def GetTokenizerInfo(
        self, request: models_pb2.GetTokenizerInfoRequest, context: grpc.ServicerContext
    ) -> models_pb2.GetTokenizerInfoResponse:
        raise AssertionError("no client calls it")


class ScriptedServer:
    """The server, its script and its health."""

    def __init__(self) -> None:
        self.script = Script()
        self.health = health.HealthServicer()
        self.set_live(True)
        self._server = grpc.server(ThreadPoolExecutor(4), options=(("grpc.so_reuseport", 0),))
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(Inference(self.script), self._server)
        models_pb2_grpc.add_ModelServiceServicer_to_server(Models(self.script), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def set_ready(self, ready: bool) -> None:
        status = health_pb2.HealthCheckResponse
        self.health.set("", status.SERVING if ready else status.NOT_SERVING)

    def set_live(self, live: bool) -> None:
        status = health_pb2.HealthCheckResponse
        self.health.set("live", status.SERVING if live else status.NOT_SERVING)

    def stop(self) -> None:
        self.script.cancelled.set()
        self._server.stop(0).wait()
