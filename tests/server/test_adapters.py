"""LoRA adapters through AdminService, and requests that name them, over a fake engine."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from calls import details_of, status_of
from fakes import FakeEngine, FakeServer, saying, serve

from pagewire.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Stubs:
    def __init__(self, server: FakeServer, public: grpc.aio.Channel, admin: grpc.aio.Channel) -> None:
        self.engine = server.engine
        self.models: Any = models_pb2_grpc.ModelServiceStub(public)
        self.inference: Any = inference_pb2_grpc.InferenceServiceStub(public)
        self.admin: Any = admin_pb2_grpc.AdminServiceStub(admin)

    def load(self, name: str, path: str, *, replace: bool = False) -> Any:
        return self.admin.LoadAdapter(admin_pb2.LoadAdapterRequest(name=name, path=path, replace=replace))

    def unload(self, name: str) -> Any:
        return self.admin.UnloadAdapter(admin_pb2.UnloadAdapterRequest(name=name))

    async def listed(self) -> list[tuple[str, str, int]]:
        response = await self.admin.ListAdapters(admin_pb2.ListAdaptersRequest())
        return [(each.name, each.path, each.rank) for each in response.adapters]

    def generate(self, model: str = "", adapter: str = "") -> Any:
        spec = inference_pb2.GenerationSpec(model=model, adapter=adapter, text="hi")
        return self.inference.Generate(inference_pb2.GenerateRequest(spec=spec))


@contextlib.asynccontextmanager
async def calling(engine: FakeEngine | None = None, max_adapters: int = 2) -> AsyncIterator[Stubs]:
    async with (
        serve(engine or FakeEngine(), names=("base", "alias"), max_adapters=max_adapters) as server,
        grpc.aio.insecure_channel(server.target) as public,
        grpc.aio.insecure_channel(server.admin_target) as admin,
    ):
        yield Stubs(server, public, admin)


async def test_an_adapter_is_loaded_listed_used_and_unloaded() -> None:
    async with calling() as stubs:
        response = await stubs.load("sql", "/adapters/sql-v3")
        assert response.adapter == admin_pb2.Adapter(name="sql", path="/adapters/sql-v3", rank=8)
        await stubs.load("art", "/adapters/art")
        assert await stubs.listed() == [("sql", "/adapters/sql-v3", 8), ("art", "/adapters/art", 8)]
        for model, adapter, used in (
            ("sql", "", "sql"), ("", "sql", "sql"), ("sql", "sql", "sql"), ("alias", "sql", "sql"),
            ("art", "", "art"), ("base", "", "base"), ("", "", "base"),
        ):  # fmt: skip
            assert (await stubs.generate(model, adapter)).started.model == used
        assert [request.adapter for request in stubs.engine.requests] == [1, 1, 1, 1, 2, 0, 0]
        await stubs.unload("sql")
        assert await stubs.listed() == [("art", "/adapters/art", 8)]
        assert stubs.engine.adapters == {2: "/adapters/art"}


async def test_models_list_adapters_without_their_place() -> None:
    async with calling() as stubs:
        await stubs.load("sql", "/adapters/sql-v3")
        models = (await stubs.models.ListModels(models_pb2.ListModelsRequest())).models
        assert [(each.name, each.root, each.parent) for each in models] == [
            ("base", "fake", ""), ("alias", "fake", ""), ("sql", "sql-v3", "base"),
        ]  # fmt: skip
        model = (await stubs.models.GetModel(models_pb2.GetModelRequest(name="sql"))).model
        assert model == models[2]
        tokenized = await stubs.models.Tokenize(models_pb2.TokenizeRequest(model="sql", text="hi"))
        assert list(tokenized.token_ids) == list(b"hi")


async def test_unknown_names_are_not_found_and_named() -> None:
    async with calling() as stubs:
        await stubs.load("sql", "/adapters/sql")
        for call, reason in (
            (stubs.generate(model="nope"), "MODEL_NOT_FOUND"),
            (stubs.generate(adapter="nope"), "ADAPTER_NOT_FOUND"),
            (stubs.generate(model="sql", adapter="nope"), "ADAPTER_NOT_FOUND"),
            (stubs.unload("nope"), "ADAPTER_NOT_FOUND"),
        ):
            error = await status_of(call)
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert "'nope'" in str(error.details())
            assert details_of(error)["ErrorInfo"].reason == reason


async def test_two_adapters_for_one_request_are_refused() -> None:
    async with calling() as stubs:
        await stubs.load("sql", "/adapters/sql")
        await stubs.load("art", "/adapters/art")
        error = await status_of(stubs.generate("sql", "art"))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert details_of(error)["BadRequest"].field_violations[0].field == "spec.adapter"


async def test_bad_loads_are_refused_by_name() -> None:
    async with calling() as stubs:
        await stubs.load("sql", "/adapters/sql")
        for call, field in (
            (stubs.load("", "/x"), "name"),
            (stubs.load("x", ""), "path"),
            (stubs.load("x", "/broken"), "path"),
        ):
            error = await status_of(call)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert details_of(error)["BadRequest"].field_violations[0].field == field
        for name in ("sql", "base", "alias"):
            error = await status_of(stubs.load(name, "/x"))
            assert error.code() is grpc.StatusCode.ALREADY_EXISTS
            assert f"'{name}'" in str(error.details())
        await stubs.load("art", "/adapters/art")
        error = await status_of(stubs.load("third", "/x"))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(await stubs.listed()) == 2


async def test_a_server_without_adapters_says_so() -> None:
    async with calling(max_adapters=0) as stubs:
        error = await status_of(stubs.load("sql", "/adapters/sql"))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "--enable-lora" in str(error.details())
        assert await stubs.listed() == []


async def test_unloading_refuses_new_requests_and_waits_for_running_ones() -> None:
    engine = FakeEngine(saying(65), manual=True)
    async with calling(engine) as stubs:
        await stubs.load("sql", "/adapters/sql")
        running = asyncio.ensure_future(stubs.generate("sql"))
        await engine.until(1)
        unloading = asyncio.ensure_future(stubs.unload("sql"))
        while await stubs.listed():
            pass
        assert (await status_of(stubs.generate("sql"))).code() is grpc.StatusCode.NOT_FOUND
        assert engine.adapters == {1: "/adapters/sql"}
        while engine.live:
            engine.step()
        assert (await running).started.model == "sql"
        await unloading
        assert engine.adapters == {}


async def test_a_replaced_adapter_serves_its_running_requests_to_their_end() -> None:
    engine = FakeEngine(saying(65), manual=True)
    async with calling(engine) as stubs:
        await stubs.load("sql", "/adapters/old")
        running = asyncio.ensure_future(stubs.generate("sql"))
        await engine.until(1)
        await stubs.load("sql", "/adapters/new", replace=True)
        assert await stubs.listed() == [("sql", "/adapters/new", 8)]
        assert engine.adapters == {1: "/adapters/old", 2: "/adapters/new"}
        newer = asyncio.ensure_future(stubs.generate("sql"))
        await engine.until(2)
        while engine.live:
            engine.step()
        await asyncio.gather(running, newer)
        assert [request.adapter for request in engine.requests] == [1, 2]
        await engine.until_adapters(1)
        assert engine.adapters == {2: "/adapters/new"}


class SlowEngine(FakeEngine):
    """Reads new adapters when a test says so."""

    def __init__(self) -> None:
        super().__init__(saying(65), manual=True)
        self.reads = asyncio.Event()
        self.may_read = asyncio.Event()

    async def load_adapter(self, adapter: int, path: str) -> int:
        if "new" in path:
            self.reads.set()
            await self.may_read.wait()
        return await super().load_adapter(adapter, path)


async def test_an_adapter_is_unloaded_once_while_another_comes_in_its_place() -> None:
    engine = SlowEngine()
    async with calling(engine) as stubs:
        await stubs.load("sql", "/adapters/old")
        running = asyncio.ensure_future(stubs.generate("sql"))
        await engine.until(1)
        replacing = asyncio.ensure_future(stubs.load("sql", "/adapters/new", replace=True))
        await engine.reads.wait()
        unloading = asyncio.ensure_future(stubs.unload("sql"))
        while await stubs.listed():
            pass
        engine.may_read.set()
        await replacing
        while engine.live:
            engine.step()
        await running
        await unloading
        assert engine.adapters == {2: "/adapters/new"}
        assert await stubs.listed() == [("sql", "/adapters/new", 8)]


async def test_a_failed_replacement_leaves_the_old_one() -> None:
    async with calling() as stubs:
        await stubs.load("sql", "/adapters/old")
        await status_of(stubs.load("sql", "/broken", replace=True))
        assert await stubs.listed() == [("sql", "/adapters/old", 8)]
        assert (await stubs.generate("sql")).started.model == "sql"


async def test_the_prefix_cache_is_reset() -> None:
    async with calling() as stubs:
        await stubs.admin.ResetPrefixCache(admin_pb2.ResetPrefixCacheRequest())
        assert stubs.engine.num_cache_resets == 1
