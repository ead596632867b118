"""`pagewire top` against a real server over a fake engine."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest
from certificates import authority
from fakes import FakeEngine, serve
from google.protobuf.duration_pb2 import Duration

from cli.__main__ import main
from cli.top_figures import Watch
from gate.key_ring import KeyRing
from gate.keys import parse_key
from pagewire.v1 import admin_pb2
from server.engine_failure import FailureReason
from server.tls import server_credentials

if TYPE_CHECKING:
    from pathlib import Path

    from fakes import FakeServer

KEY = "operator-key"


def busy_engine() -> FakeEngine:
    engine = FakeEngine()
    engine.stats = msgspec.structs.replace(
        engine.stats, num_running=3, num_waiting=2, num_free_blocks=40, num_owned_blocks=16,
        num_cached_blocks=8, num_prefix_query_tokens=200, num_prefix_hit_tokens=50, num_preemptions=7,
        num_finished=11,
    )  # fmt: skip
    engine.restarts = {FailureReason.KILLED: 1}
    return engine


async def top(server: FakeServer, *flags: str) -> int:
    words = ["top", "--once", "--interval", "0.01", "--admin-target", server.admin_target, *flags]
    return await asyncio.to_thread(main, words, {})


async def test_one_frame_for_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(busy_engine()) as server:
        assert await top(server) == 0
    text = capsys.readouterr().out
    for shown in (
        "ready", "3 running, 2 waiting", "16 owned, 8 cached, 40 free", "25% of prompt tokens", "1 restarts",
        "11 finished", "7 preempted", "0.0 generated",
    ):  # fmt: skip
        assert shown in text, shown


async def test_one_frame_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    engine = busy_engine()
    async with serve(engine) as server:
        engine.crash("the engine ended")
        assert await top(server, "--json") == 0
    (line,) = capsys.readouterr().out.splitlines()
    figures = json.loads(line)
    assert (figures["ready"], figures["not_ready_reason"]) == (False, "the engine ended")
    assert (figures["running"], figures["owned_blocks"], figures["prefix_hit_rate"]) == (3, 16, 0.25)
    assert figures["generated_tokens_per_s"] == 0.0


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["frames", "json"])
async def test_a_pipe_gets_frame_after_frame_until_nobody_reads(flags: list[str]) -> None:
    def read_two(words: list[str]) -> tuple[list[str], str, int]:
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            frames = itertools.islice((line for line in process.stdout if "running" in line), 2)
            shown = list(frames)
            process.stdout.close()
            return shown, process.stderr.read(), process.wait(60)

    async with serve(busy_engine()) as server:
        words = ["top", "--interval=0.01", f"--admin-target={server.admin_target}", *flags]
        shown, error, code = await asyncio.to_thread(read_two, [sys.executable, "-m", "cli", *words])
    assert len(shown) == 2
    assert (error, code) == ("", 128 + signal.SIGPIPE)


async def test_an_operators_key_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(busy_engine(), admin_keys=KeyRing([parse_key(KEY)])) as server:
        assert await top(server, "--admin-api-key", KEY) == 0
        assert await top(server) == 1
        assert await top(server, "--admin-api-key", "other-key") == 1
    assert "other-key" not in capsys.readouterr().err


async def test_a_server_that_speaks_tls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = authority(tmp_path / "ours")
    async with serve(busy_engine(), credentials=lambda: server_credentials(ours.issue("server"))) as server:
        assert await top(server, "--grpc-ca-certs", str(ours.roots)) == 0
        assert await top(server) == 1
    assert "3 running" in capsys.readouterr().out


def test_a_server_that_is_not_there_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--once", "--admin-target", "unix:/nowhere"], {}) == 1
    assert capsys.readouterr().err.startswith("pagewire top: unix:/nowhere: ")


def test_a_gpu_without_a_step() -> None:
    def response(*busy_s: int) -> admin_pb2.GetStatsResponse:
        busy = Duration(seconds=busy_s[0]) if busy_s else None
        return admin_pb2.GetStatsResponse(step_times=admin_pb2.StepTimes(device_busy=busy))

    watch = Watch()
    assert watch.take(response(), 10.0).device_idle is None
    assert watch.take(response(), 20.0).device_idle is None  # a CPU
    assert watch.take(response(3), 30.0).device_idle == 0.7
    assert watch.take(response(14), 40.0).device_idle == 0.0  # a step that began before
    assert watch.take(response(14), 50.0).device_idle == 1.0
    assert watch.take(response(2), 60.0).device_idle is None  # another server
    assert watch.take(response(7), 70.0).device_idle == 0.5


def test_rates_are_of_one_engine() -> None:
    def response(num_generated: int) -> admin_pb2.GetStatsResponse:
        return admin_pb2.GetStatsResponse(engine=admin_pb2.EngineStats(num_generated_tokens=num_generated))

    watch = Watch()
    assert watch.take(response(100), 10.0).generated_tokens_per_s is None
    assert watch.take(response(150), 12.0).generated_tokens_per_s == 25.0
    assert watch.take(response(5), 13.0).generated_tokens_per_s is None  # another engine
    assert watch.take(response(15), 14.0).generated_tokens_per_s == 10.0
