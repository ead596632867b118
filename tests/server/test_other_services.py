"""ModelService, AdminService and health, over a fake engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import msgspec
import pytest
from calls import details_of, status_of
from fakes import END_ID, FakeEngine, FakeServer, saying, serve
from google.protobuf import duration_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from engine.messages import StepWork
from pagewire.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    chat_pb2,
    inference_pb2,
    inference_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
)
from server.engine_failure import FailureReason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TIMEOUT_S = 60.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Stubs:
    def __init__(self, server: FakeServer, public: grpc.aio.Channel, admin: grpc.aio.Channel) -> None:
        self.server = server
        self.engine = server.engine
        self.models: Any = models_pb2_grpc.ModelServiceStub(public)
        self.inference: Any = inference_pb2_grpc.InferenceServiceStub(public)
        self.health: Any = health_pb2_grpc.HealthStub(public)
        self.admin_health: Any = health_pb2_grpc.HealthStub(admin)
        self.admin: Any = admin_pb2_grpc.AdminServiceStub(admin)
        self.public_admin: Any = admin_pb2_grpc.AdminServiceStub(public)

    def stream(self, request_id: str = "r") -> Any:
        spec = inference_pb2.GenerationSpec(text="hi")
        request = inference_pb2.StreamGenerateRequest(spec=spec)
        return self.inference.StreamGenerate(request, metadata=[("x-request-id", request_id)])


@contextlib.asynccontextmanager
async def calling(engine: FakeEngine | None = None, **settings: Any) -> AsyncIterator[Stubs]:
    async with (
        serve(engine or FakeEngine(), **settings) as server,
        grpc.aio.insecure_channel(server.target) as public,
        grpc.aio.insecure_channel(server.admin_target) as admin,
    ):
        yield Stubs(server, public, admin)


async def refused_field(call: Any) -> str:
    error = await status_of(call)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(details_of(error)["BadRequest"].field_violations[0].field)


async def test_a_model_is_described_under_each_of_its_names() -> None:
    async with calling(names=("a", "b")) as stubs:
        models = (await stubs.models.ListModels(models_pb2.ListModelsRequest())).models
        assert [model.name for model in models] == ["a", "b"]
        model = (await stubs.models.GetModel(models_pb2.GetModelRequest(name="b"))).model
        assert model == models[1]
        assert (model.vocab_size, model.max_model_len, list(model.eos_token_ids)) == (260, 128, [END_ID])
        assert model.has_chat_template
        assert len(model.tokenizer_fingerprint) == 64
        assert not model.default_sampling.HasField("temperature")
        error = await status_of(stubs.models.GetModel(models_pb2.GetModelRequest(name="c")))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert details_of(error)["ErrorInfo"].reason == "MODEL_NOT_FOUND"


async def test_text_goes_to_tokens_and_back() -> None:
    async with calling() as stubs:
        response = await stubs.models.Tokenize(models_pb2.TokenizeRequest(text="hé<end>", token_texts=True))
        assert list(response.token_ids) == [*"hé".encode(), END_ID]
        assert list(response.token_texts)[-1] == "<end>"
        assert response.max_model_len == 128
        for skips, text in {False: "hé<end>", True: "hé"}.items():
            request = models_pb2.DetokenizeRequest(token_ids=response.token_ids, skip_special_tokens=skips)
            assert (await stubs.models.Detokenize(request)).text == text


async def test_a_chat_is_rendered_and_tokenized_as_generate_would() -> None:
    chat = chat_pb2.Chat(messages=[chat_pb2.Message(role="user", text="x")])
    async with calling() as stubs:
        rendered = await stubs.models.RenderChat(models_pb2.RenderChatRequest(chat=chat))
        assert rendered.text == "<user>x\n<assistant>"
        tokenized = await stubs.models.Tokenize(models_pb2.TokenizeRequest(chat=chat))
        assert tokenized.token_ids == rendered.token_ids == list(rendered.text.encode())
        chat.continue_final_message = True
        rendered = await stubs.models.RenderChat(models_pb2.RenderChatRequest(chat=chat))
        assert rendered.text == "<user>x"


async def test_the_tokenizer_tells_its_settings() -> None:
    async with calling() as stubs:
        request = models_pb2.GetTokenizerInfoRequest()
        info = json.loads((await stubs.models.GetTokenizerInfo(request)).tokenizer_config_json)
        assert info["eos_token"] == "<end>"
        assert info["added_tokens_decoder"][str(END_ID)]["special"]
        assert info["model_max_length"] == 128
        assert "role" in info["chat_template"]
        request.model = "other"
        error = await status_of(stubs.models.GetTokenizerInfo(request))
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_bad_requests_name_their_field() -> None:
    async with calling() as stubs:
        models = stubs.models
        assert await refused_field(models.Tokenize(models_pb2.TokenizeRequest())) == "input"
        assert await refused_field(models.RenderChat(models_pb2.RenderChatRequest())) == "chat"
        empty = models_pb2.RenderChatRequest(chat=chat_pb2.Chat())
        assert await refused_field(models.RenderChat(empty)) == "chat.messages"
        beyond = models_pb2.DetokenizeRequest(token_ids=[1, 260])
        assert await refused_field(models.Detokenize(beyond)) == "token_ids[1]"


async def test_admin_is_not_on_the_public_port() -> None:
    async with calling() as stubs:
        error = await status_of(stubs.public_admin.GetStats(admin_pb2.GetStatsRequest()))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_stats_are_the_engines() -> None:
    async with calling() as stubs:
        stubs.engine.stats = msgspec.structs.replace(stubs.engine.stats, num_running=3, num_steps=2**40)
        stubs.engine.restarts = {FailureReason.KILLED: 1, FailureReason.DEVICE: 1}
        response = await stubs.admin.GetStats(admin_pb2.GetStatsRequest())
        assert (response.engine.num_running, response.engine.num_steps) == (3, 2**40)
        assert response.engine.num_free_blocks == 64
        assert not response.engine.HasField("last_step_age")
        stubs.engine.last_step_age_s = 1.5
        response = await stubs.admin.GetStats(admin_pb2.GetStatsRequest())
        assert response.engine.last_step_age.ToMilliseconds() == 1500
        assert (response.num_engine_restarts, response.ready, response.not_ready_reason) == (2, True, "")
        stubs.engine.crash("it ended")
        response = await stubs.admin.GetStats(admin_pb2.GetStatsRequest())
        assert (response.ready, response.not_ready_reason) == (False, "it ended")


async def test_stats_tell_where_the_time_of_steps_went() -> None:
    async with calling() as stubs:
        stubs.engine.steps.add(StepWork(7, 0.25, 1.5))
        times = (await stubs.admin.GetStats(admin_pb2.GetStatsRequest())).step_times
        assert (times.host.ToMilliseconds(), times.wait.ToMilliseconds()) == (250, 1500)
        assert not times.HasField("device_busy")  # a CPU
        stubs.engine.steps.add(StepWork(7, 0.25, 1.5, busy_s=0.125))
        times = (await stubs.admin.GetStats(admin_pb2.GetStatsRequest())).step_times
        assert (times.host.ToMilliseconds(), times.device_busy.ToMilliseconds()) == (500, 125)


async def test_an_operator_ends_a_request() -> None:
    async with calling(FakeEngine(saying(1), manual=True)) as stubs:
        call = stubs.stream("mine")
        await stubs.engine.until(1)
        await stubs.admin.AbortRequest(admin_pb2.AbortRequestRequest(request_id="mine"))
        error = await status_of(call)
        assert error.code() is grpc.StatusCode.CANCELLED
        assert details_of(error)["ErrorInfo"].reason == "ABORTED_BY_OPERATOR"
        await stubs.engine.until(0)
        error = await status_of(stubs.admin.AbortRequest(admin_pb2.AbortRequestRequest(request_id="mine")))
        assert error.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("in_time", [True, False])
async def test_draining_waits_for_what_runs(in_time: bool) -> None:
    engine = FakeEngine(saying(END_ID), manual=True)
    async with calling(engine) as stubs:
        call = stubs.stream()
        await engine.until(1)
        engine.admit()
        await call.read()
        watch = stubs.health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        timeout = duration_pb2.Duration(seconds=20) if in_time else duration_pb2.Duration()
        drain = asyncio.ensure_future(stubs.admin.Drain(admin_pb2.DrainRequest(timeout=timeout)))
        assert (await watch.read()).status == NOT_SERVING
        assert (await status_of(stubs.stream())).code() is grpc.StatusCode.UNAVAILABLE
        if in_time:
            engine.step()
            while (event := await call.read()) is not grpc.aio.EOF:
                last = event.WhichOneof("event")
                assert last in ("delta", "finished")
        else:
            assert (await status_of(call)).code() is grpc.StatusCode.UNAVAILABLE
        assert (await drain).num_aborted == (0 if in_time else 1)


async def test_a_negative_drain_timeout_is_refused() -> None:
    async with calling() as stubs:
        request = admin_pb2.DrainRequest(timeout=duration_pb2.Duration(seconds=-1))
        assert await refused_field(stubs.admin.Drain(request)) == "timeout"


async def test_health_follows_the_engine() -> None:
    async with calling() as stubs:
        for name in ("", "pagewire.v1.InferenceService", "pagewire.v1.ModelService"):
            response = await stubs.health.Check(health_pb2.HealthCheckRequest(service=name))
            assert response.status == SERVING
        watches = [
            stubs.health.Watch(health_pb2.HealthCheckRequest(service=name))
            for name in ("", "pagewire.v1.InferenceService", "nobody")
        ]
        assert [(await watch.read()).status for watch in watches] == [SERVING, SERVING, UNKNOWN]
        stubs.engine.crash()
        stubs.server.services.readiness.refresh()
        assert [(await watch.read()).status for watch in watches[:2]] == [NOT_SERVING, NOT_SERVING]
        stubs.engine.not_ready_reason = None
        stubs.server.services.readiness.refresh()
        assert [(await watch.read()).status for watch in watches[:2]] == [SERVING, SERVING]
        statuses = (await stubs.health.List(health_pb2.HealthListRequest())).statuses
        assert {status.status for status in statuses.values()} == {SERVING}
        for watch in watches:
            watch.cancel()


@pytest.mark.parametrize("num_fronts", [0, 1])
async def test_watches_of_health_are_limited_and_one_that_ends_makes_room(
    monkeypatch: pytest.MonkeyPatch, num_fronts: int
) -> None:
    monkeypatch.setattr("server.health.MAX_WATCHES", 2)
    request = health_pb2.HealthCheckRequest()
    async with calling(num_fronts=num_fronts) as stubs:
        watches = [stubs.health.Watch(request) for _ in range(2)]
        assert [(await watch.read()).status for watch in watches] == [SERVING, SERVING]
        error = await status_of(stubs.health.Watch(request))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details_of(error)["ErrorInfo"].reason == "TOO_MANY_WATCHES"
        assert (await stubs.health.Check(request)).status == SERVING
        operators = stubs.admin_health.Watch(request)
        assert (await operators.read()).status == SERVING
        watches[0].cancel()
        assert (await _once_there_is_room(stubs)).status == SERVING


async def _once_there_is_room(stubs: Stubs) -> Any:
    """The server hears in its own time that a caller has gone."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                return await stubs.health.Watch(health_pb2.HealthCheckRequest()).read()


async def test_health_of_an_unknown_service_is_not_found() -> None:
    async with calling() as stubs:
        error = await status_of(stubs.health.Check(health_pb2.HealthCheckRequest(service="nobody")))
        assert error.code() is grpc.StatusCode.NOT_FOUND
