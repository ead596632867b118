"""What may go wrong with a front, or on the way to it, costs no more than it has to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from calls import status_of
from fake_house import FakeHouse
from fakes import FakeEngine, serve
from http2_attacks import ATTACKS
from processes import wait_until
from scarce_descriptors import no_descriptors

from server.front import RelayedCall, size_of
from server.front_call import FrontCall
from server.front_channel import FrontChannel
from server.front_link import FrontLink
from server.front_messages import End, FrontConfig, Opened, Order, Write, decode_order
from server.fronts import Fronts
from server.listeners import MAX_METADATA, OPTIONS, PortError

if TYPE_CHECKING:
    from pathlib import Path

    from fakes import FakeServer

pytestmark = pytest.mark.check("R04")

TIMEOUT_S = 60.0
HEALTH = "/grpc.health.v1.Health"
OPENED = Opened(0, "/a.Service/Method", (), "ipv4:127.0.0.1:1", None)


def link_of(server: FakeServer) -> FrontLink:
    assert isinstance(server.public, Fronts)
    return server.public._links[0]


async def test_a_status_for_a_caller_who_has_just_left_is_dropped() -> None:
    """It would have ended the front, with the calls of all others."""
    context: Any = None
    call = RelayedCall(0, context, lambda _: None)
    call.end.cancel()
    call.take(End(0, None, 0, "", ()))
    assert call.end.cancelled()


def serving(handle: Any) -> tuple[FrontCall, list[Order], asyncio.Event]:
    """A call that `handle` serves, what is sent for it, and its end."""
    sent: list[Order] = []
    ended = asyncio.Event()
    call = FrontCall(OPENED, sent.append)

    async def find(_: object) -> Any:
        return grpc.stream_stream_rpc_method_handler(handle)

    call.start(find, ended.set)
    return call, sent, ended


async def test_a_handler_that_ends_with_a_stray_cancellation_has_a_status() -> None:
    async def handle(_: object, context: FrontCall) -> None:
        raise asyncio.CancelledError

    _, sent, ended = serving(handle)
    await ended.wait()
    assert sent == [End(0, None, grpc.StatusCode.INTERNAL.value[0], "internal error", ())]


async def test_who_leaves_twice_cuts_no_handler_short() -> None:
    begun, cleaning, may_end, cleaned = (asyncio.Event() for _ in range(4))

    async def handle(_: object, context: FrontCall) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await may_end.wait()
            cleaned.set()

    call, sent, ended = serving(handle)
    await begun.wait()
    call.leave()
    await cleaning.wait()
    call.leave()
    may_end.set()
    await ended.wait()
    assert cleaned.is_set()
    assert not sent


async def test_a_front_that_cannot_be_started_again_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(FakeEngine(), num_fronts=1) as server:
        lost, start, failures = link_of(server), asyncio.create_subprocess_exec, [OSError(11, "busy")]

        async def start_at_last(*words: Any, **settings: Any) -> Any:
            if failures:
                raise failures.pop()
            return await start(*words, **settings)

        monkeypatch.setattr(asyncio, "create_subprocess_exec", start_at_last)
        os.kill(lost.pid, signal.SIGKILL)
        async with grpc.aio.insecure_channel(server.target) as channel:
            check: Any = channel.unary_unary(f"{HEALTH}/Check")
            await check(b"", wait_for_ready=True, timeout=TIMEOUT_S)
        assert not failures
        assert link_of(server) is not lost


async def test_a_server_ends_though_its_front_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = asyncio.Event()

    async def refuse(*_: Any, **__: Any) -> Any:
        tried.set()
        raise OSError(11, "busy")

    async with asyncio.timeout(TIMEOUT_S):
        async with serve(FakeEngine(), num_fronts=1) as server:
            monkeypatch.setattr(asyncio, "create_subprocess_exec", refuse)
            os.kill(link_of(server).pid, signal.SIGKILL)
            await tried.wait()


async def test_a_server_ends_though_its_front_is_frozen() -> None:
    """And though it has more to say to it than the channel holds."""
    async with asyncio.timeout(TIMEOUT_S):
        async with serve(FakeEngine(), num_fronts=1) as server:
            link = link_of(server)
            os.kill(link.pid, signal.SIGSTOP)
            for _ in range(50):
                link._channel.send(Write(0, bytes(1 << 16)))
    with pytest.raises(ProcessLookupError):
        os.kill(link.pid, 0)


async def test_a_frozen_front_is_killed_and_another_takes_its_place() -> None:
    async with (
        serve(FakeEngine(), num_fronts=1, front_silence_timeout_s=3.0) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        watch: Any = channel.unary_stream(f"{HEALTH}/Watch")
        call = watch(b"", timeout=TIMEOUT_S)
        await call.read()
        frozen = link_of(server)
        os.kill(frozen.pid, signal.SIGSTOP)
        assert (await status_of(call)).code() is grpc.StatusCode.UNAVAILABLE
        check: Any = channel.unary_unary(f"{HEALTH}/Check")
        await check(b"", wait_for_ready=True, timeout=TIMEOUT_S)
        assert link_of(server) is not frozen
        assert await frozen.ended() == -signal.SIGKILL


async def test_a_front_that_does_not_come_to_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.front_link._START_TIMEOUT_S", 0.0)
    link = FrontLink(lambda _: asyncio.sleep(0))
    with pytest.raises(PortError, match="did not listen within 0 s"):
        await link.start(FrontConfig("127.0.0.1", 0, {}, None))
    assert await link.ended() == -signal.SIGKILL


async def test_a_front_for_which_no_descriptor_is_left_cannot_be_started() -> None:
    link = FrontLink(lambda _: asyncio.sleep(0))
    with no_descriptors(), pytest.raises(PortError, match="cannot be started"):
        await link.start(FrontConfig("127.0.0.1", 0, {}, None))
    await link.stop(0.0)
    assert await link.ended() is None


def test_a_frozen_server_loses_its_callers_and_comes_back_by_itself(tmp_path: Path) -> None:
    with FakeHouse(tmp_path, grpc_front_count=2) as house, grpc.insecure_channel(house.target) as channel:
        watch: Any = channel.unary_stream(f"{HEALTH}/Watch")
        call = watch(b"", timeout=TIMEOUT_S)
        next(call)
        house.server.send_signal(signal.SIGSTOP)
        with pytest.raises(grpc.RpcError) as raised:
            next(call)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert raised.value.details() == "the server does not answer"
        check: Any = channel.unary_unary(f"{HEALTH}/Check")
        with pytest.raises(grpc.RpcError) as refused:
            check(b"", timeout=TIMEOUT_S)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        house.server.send_signal(signal.SIGCONT)
        check(b"", wait_for_ready=True, timeout=TIMEOUT_S)
        house.wait_until_served()


async def test_who_was_stopped_itself_takes_nobody_for_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.front_channel.BEAT_INTERVAL_S", 0.05)
    silent = asyncio.Event()
    ours, theirs = (FrontChannel(decode_order, lambda _: None, lambda: None, silent.set) for _ in range(2))
    for channel, end in zip((ours, theirs), socket.socketpair(), strict=True):
        end.setblocking(False)
        await channel.open(end)
    ours.watch(0.5)
    for _ in range(3):
        time.sleep(1.0)  # noqa: ASYNC251 - the loop stands still
        await asyncio.sleep(0.2)
    assert not silent.is_set()
    theirs._stop_beating()
    async with asyncio.timeout(TIMEOUT_S):
        await silent.wait()
    ours.close()
    theirs.close()
    await asyncio.sleep(0)


async def test_headers_that_unfold_go_no_further_than_the_front(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is 12 KB on the wire is 16 MB; the server would be told all of it, for each call."""
    sizes: list[int] = []
    start = FrontCall.start

    def noted(call: FrontCall, *words: Any) -> None:
        sizes.append(size_of(call.invocation_metadata()))
        start(call, *words)

    monkeypatch.setattr(FrontCall, "start", noted)
    async with (
        serve(FakeEngine(), num_fronts=1) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        await asyncio.to_thread(ATTACKS["headers that unfold"], int(server.target.rpartition(":")[2]), 100)
        check: Any = channel.unary_unary(f"{HEALTH}/Check")
        await check(b"", metadata=[("x-a", "a" * 7000)], timeout=TIMEOUT_S)
        assert 7000 < max(sizes) < OPTIONS[MAX_METADATA]


async def test_a_front_that_has_stopped_has_no_handlers() -> None:
    async with (
        serve(FakeEngine(), num_fronts=1) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        watch: Any = channel.unary_stream(f"{HEALTH}/Watch")
        call = watch(b"")
        await call.read()
        link = link_of(server)
        assert len(link._calls) == 1
        await link.stop(0.0)
        assert not link._calls
        assert (await status_of(call)).code() is not grpc.StatusCode.OK


async def test_callers_who_leave_whenever_they_like_end_no_front() -> None:
    async with serve(FakeEngine(), num_fronts=1) as server:
        link = link_of(server)
        async with grpc.aio.insecure_channel(server.target) as channel:
            check: Any = channel.unary_unary(f"{HEALTH}/Check")

            async def leave_after(turns: int) -> None:
                call = check(b"")
                for _ in range(turns):
                    await asyncio.sleep(0)
                call.cancel()
                with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                    await call

            for _ in range(10):
                await asyncio.gather(*map(leave_after, range(60)))
            await asyncio.to_thread(wait_until, lambda: not link._calls, "the calls are over", TIMEOUT_S)
            await check(b"", timeout=TIMEOUT_S)
        assert link_of(server) is link
