"""Callers who leave in every way and at any time leave no block, no task and no descriptor behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import grpc.aio
import pytest
from fakes import FakeServer, serve
from open_calls import spec
from real_engine import real_engine
from resetting_proxy import ResettingProxy

from pagewire.v1 import inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fakes import FakeEngine

    from server.engine_process import EngineProcess

pytestmark = pytest.mark.check("R06")

TESTS = Path(__file__).parents[1]
NUM_SEQS = 64
CLIENT_STREAMS = 50
# Channels of one process share their connections otherwise.
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[tuple[FakeServer, EngineProcess]]:
    """The real services over a real engine process, whose scheduler is real too."""
    async with (
        real_engine(NUM_SEQS) as engine,
        serve(cast("FakeEngine", engine), max_queued_requests=10_000) as server,
    ):
        yield server, engine


async def open_stream(channel: grpc.aio.Channel, dice: random.Random, **call: Any) -> Any:
    """A stream of which a random part has been read, maybe nothing."""
    stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
    stream = stub.StreamGenerate(inference_pb2.StreamGenerateRequest(spec=spec(dice.randint(1, 30))), **call)
    for _ in range(dice.choice([0, 0, 1, 2, 5, 20])):
        if await stream.read() is grpc.aio.EOF:
            break
    return stream


async def cancel(channel: grpc.aio.Channel, dice: random.Random) -> None:
    (await open_stream(channel, dice)).cancel()


async def cancel_unary(channel: grpc.aio.Channel, dice: random.Random) -> None:
    stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
    call = stub.Generate(inference_pb2.GenerateRequest(spec=spec(dice.randint(1, 30))))
    await asyncio.sleep(dice.random() * 0.2)
    call.cancel()


async def pass_a_deadline(channel: grpc.aio.Channel, dice: random.Random) -> None:
    with contextlib.suppress(grpc.aio.AioRpcError):
        stream = await open_stream(channel, dice, timeout=dice.choice([0.001, 0.01, 0.05, 0.2]))
        while await stream.read() is not grpc.aio.EOF:
            pass


async def close_channels(target: str, dice: random.Random, count: int) -> None:
    for _ in range(count // 10):
        channel = grpc.aio.insecure_channel(target, options=OWN_CONNECTION)
        calls = [asyncio.create_task(open_stream(channel, dice)) for _ in range(10)]
        await asyncio.sleep(dice.random() * 0.2)
        await channel.close()
        await asyncio.gather(*calls, return_exceptions=True)


async def reset_connections(target: str, dice: random.Random, count: int) -> None:
    async with ResettingProxy(int(target.rpartition(":")[2])) as proxy:
        for _ in range(count // 10):
            async with grpc.aio.insecure_channel(proxy.target, options=OWN_CONNECTION) as channel:
                calls = [asyncio.create_task(open_stream(channel, dice)) for _ in range(10)]
                await asyncio.sleep(dice.random() * 0.2)
                proxy.reset()
                await asyncio.gather(*calls, return_exceptions=True)


async def kill_a_client(target: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(TESTS / "leaving_client.py"),
        target,
        str(CLIENT_STREAMS),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent / "clients/python/src")},
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"open\n"
    process.kill()
    await process.communicate()


async def leave_in_every_way(server: FakeServer, num_aborts: int, num_kills: int) -> None:
    dice = random.Random(num_aborts)
    share = num_aborts // 5
    few = asyncio.Semaphore(NUM_SEQS)
    async with grpc.aio.insecure_channel(server.target) as channel:

        async def each(way: Callable[[grpc.aio.Channel, random.Random], Any]) -> None:
            async with few:
                await way(channel, dice)

        await asyncio.gather(
            *(each(way) for way in (cancel, cancel_unary, pass_a_deadline) for _ in range(share)),
            close_channels(server.target, dice, share),
            reset_connections(server.target, dice, share),
        )
    for _ in range(num_kills):
        await kill_a_client(server.target)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.02)


def num_descriptors() -> int:
    gc.collect()  # closed channels of the clients refer to themselves
    return len(os.listdir("/proc/self/fd"))


async def abort_and_count(num_aborts: int, num_kills: int) -> None:
    async with serving() as (server, engine):
        await leave_in_every_way(server, num_aborts=10, num_kills=1)  # what stays is there from now on
        await until(lambda: server.services.admission.num_live == 0)
        await until(lambda: engine.stats.num_running == engine.stats.num_waiting == 0)
        num_tasks, descriptors = len(asyncio.all_tasks()), num_descriptors()
        await leave_in_every_way(server, num_aborts, num_kills)
        await until(lambda: server.services.admission.num_live == 0)
        await until(lambda: engine.stats.num_running == engine.stats.num_waiting == 0)
        stats = engine.stats
        assert stats.num_owned_blocks == 0
        assert stats.num_free_blocks + stats.num_cached_blocks == engine.info.num_blocks
        assert stats.num_aborted >= (1 + num_kills) * CLIENT_STREAMS
        assert stats.num_failed == 0
        await until(lambda: len(asyncio.all_tasks()) <= num_tasks)
        await until(lambda: num_descriptors() <= descriptors)
        assert not engine.restarts


async def test_a_thousand_random_aborts_leave_nothing_behind() -> None:
    await abort_and_count(num_aborts=1000, num_kills=2)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_ten_thousand_random_aborts_leave_nothing_behind() -> None:
    await abort_and_count(num_aborts=10_000, num_kills=10)
