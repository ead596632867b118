"""The server process from outside: its log, its ports, its signals and its exit codes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from calls import status_of
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tiny_tokenizer import byte_level

from pagewire.v1 import inference_pb2, inference_pb2_grpc, models_pb2, models_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[2]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Server:
    """A server process and a channel to it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log: list[str] = []
        self.channel: grpc.aio.Channel
        self.target: str

    async def until_logged(self, pattern: str) -> re.Match[str]:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.log.append(line.decode())
            if match := re.search(pattern, self.log[-1]):
                return match
        raise AssertionError("".join(self.log))

    async def exit_code(self) -> int:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.log.append(line.decode())
        return await self.process.wait()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stream(self, max_tokens: int) -> Any:
        stub: Any = inference_pb2_grpc.InferenceServiceStub(self.channel)
        stopping = inference_pb2.Stopping(max_tokens=max_tokens, ignore_eos=True)
        spec = inference_pb2.GenerationSpec(text="hi", stopping=stopping)
        return stub.StreamGenerate(inference_pb2.StreamGenerateRequest(spec=spec))

    async def health(self) -> int:
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        return int((await stub.Check(health_pb2.HealthCheckRequest())).status)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny-model"
    folder.mkdir()
    byte_level().save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


@pytest.fixture
def fatal_model(model: Path) -> Path:
    return model.rename(model.with_name("fatal"))


@contextlib.asynccontextmanager
async def started(model: Path, **settings: Any) -> AsyncIterator[Server]:
    defaults = {"model": str(model), "port": 0, "admin_port": 0, "metrics_port": 0, "drain_timeout_s": 10.0}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "tests" / "server_program.py"),
        json.dumps(defaults | settings),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients/python/src'}:{ROOT / 'tests'}"},
    )
    try:
        yield Server(process)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


@contextlib.asynccontextmanager
async def serving(model: Path, **settings: Any) -> AsyncIterator[Server]:
    async with started(model, **settings) as server:
        ready = await server.until_logged(r"gRPC server ready on (127.0.0.1:\d+), model (\S+), [\d.]+ s")
        assert ready[2] == "tiny-model"
        server.target = ready[1]
        async with grpc.aio.insecure_channel(server.target) as server.channel:
            yield server


@pytest.mark.check("R12")
@pytest.mark.parametrize("num_fronts", [1, 2])
async def test_sigterm_lets_streams_finish_and_refuses_new_ones(num_fronts: int, model: Path) -> None:
    """Scenario: SIGTERM while a stream runs. Result: not ready first, the stream intact, exit code 0."""
    async with serving(model, grpc_front_count=num_fronts) as server:
        stub: Any = health_pb2_grpc.HealthStub(server.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="pagewire.v1.InferenceService"))
        assert (await watch.read()).status == SERVING
        call = server.stream(max_tokens=50)
        await call.read()
        server.send(signal.SIGTERM)
        assert (await watch.read()).status == NOT_SERVING
        error = await status_of(server.stream(max_tokens=1))
        assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "the server is draining")
        events = [event async for event in _rest(call)]
        assert events[-1].finished.usage.num_completion_tokens == 50
        assert await server.exit_code() == 0, server.log


@pytest.mark.check("R12")
@pytest.mark.parametrize("num_fronts", [1, 2])
async def test_streams_that_outlast_the_drain_get_unavailable(num_fronts: int, model: Path) -> None:
    async with serving(model, drain_timeout_s=0.2, grpc_front_count=num_fronts) as server:
        call = server.stream(max_tokens=4000)
        await call.read()
        server.send(signal.SIGTERM)
        assert (await status_of(call)).code() is grpc.StatusCode.UNAVAILABLE
        assert await server.exit_code() == 0, server.log


@pytest.mark.check("R12")
@pytest.mark.parametrize("num_fronts", [1, 2])
async def test_a_second_signal_ends_at_once(num_fronts: int, model: Path) -> None:
    async with serving(model, drain_timeout_s=600.0, grpc_front_count=num_fronts) as server:
        call = server.stream(max_tokens=4000)
        await call.read()
        server.send(signal.SIGTERM)
        while await server.health() == SERVING:
            pass
        server.send(signal.SIGINT)
        assert (await status_of(call)).code() is grpc.StatusCode.UNAVAILABLE
        assert await server.exit_code() == 0, server.log


@pytest.mark.parametrize("num_fronts", [1, 2])
async def test_the_servers_processes_die_with_it(num_fronts: int, model: Path) -> None:
    async with serving(model, grpc_front_count=num_fronts) as server:
        call = server.stream(max_tokens=4000)
        await call.read()
        children = _children(server.process.pid)
        assert children
        server.send(signal.SIGKILL)
        assert (await status_of(call)).code() is grpc.StatusCode.UNAVAILABLE
        for pid in children:
            await _end_of(pid)


@pytest.mark.check("S07")
async def test_a_port_in_use_ends_with_code_2_and_names_the_flag(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for flag in ("--port", "--admin-port", "--metrics-port"):
            async with started(model, **{flag.strip("-").replace("-", "_"): port}) as server:
                assert await server.exit_code() == 2
                assert f"{flag} {port}: cannot listen" in "".join(server.log)


@pytest.mark.check("S07")
async def test_fronts_share_no_port_with_another_server(model: Path) -> None:
    async with serving(model, grpc_front_count=2) as first:
        port = int(first.target.rpartition(":")[2])
        for count in (1, 2):
            async with started(model, port=port, grpc_front_count=count) as second:
                assert await second.exit_code() == 2
                assert f"--port {port}: cannot listen" in "".join(second.log)
        assert await first.health() == SERVING


async def test_a_model_that_is_not_there_ends_with_code_1(model: Path) -> None:
    async with started(model / "none") as server:
        assert await server.exit_code() == 1
        assert "none" in server.log[-1]
        assert "Traceback" not in "".join(server.log)


async def test_an_engine_that_cannot_load_ends_with_code_1(fatal_model: Path) -> None:
    async with started(fatal_model) as server:
        assert await server.exit_code() == 1
        assert "no weights here" in server.log[-1]


async def test_models_are_described(model: Path) -> None:
    async with serving(model, served_model_names=("tiny-model", "alias")) as server:
        stub: Any = models_pb2_grpc.ModelServiceStub(server.channel)
        models = (await stub.ListModels(models_pb2.ListModelsRequest())).models
        assert [one.name for one in models] == ["tiny-model", "alias"]
        assert models[0].root == "tiny-model"
        assert models[0].max_model_len == 4096
        server.send(signal.SIGINT)
        assert await server.exit_code() == 0, server.log


async def _rest(call: Any) -> AsyncIterator[Any]:
    while (event := await call.read()) is not grpc.aio.EOF:
        yield event


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def _end_of(pid: int) -> None:
    """Wait until a process that need not be our child has ended."""
    ended = asyncio.Event()
    descriptor = os.pidfd_open(pid)
    try:
        asyncio.get_running_loop().add_reader(descriptor, ended.set)
        await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
