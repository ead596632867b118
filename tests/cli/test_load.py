"""Processes that send a workload: however one ends, the load ends too."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from processes import command_line, descendants, wait_until
from scripted_server import OVERLOADED, ScriptedServer

from cli.doors import DoorError
from cli.load import Service, send_load
from cli.workload import Workload

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 60.0


def workload(num_requests: int, concurrency: int) -> Workload:
    return Workload(
        num_requests=num_requests, concurrency=concurrency, prompt_lens=(4, 4), output_lens=(2, 2)
    )


@pytest.mark.parametrize("num_requests", [1, 3])
def test_fewer_requests_than_processes(server: ScriptedServer, num_requests: int) -> None:
    result = send_load(Service(server.target, "m", 300), workload(num_requests, concurrency=4), 4)
    assert len(result.timings) == num_requests
    assert server.script.num_calls == num_requests


def test_the_first_request_that_is_refused_ends_the_load(server: ScriptedServer) -> None:
    server.script.fail = OVERLOADED
    with pytest.raises(DoorError, match="OverloadedError: the queue is full"):
        send_load(Service(server.target, "m", 300), workload(4, concurrency=2), 2)


def test_a_sender_says_what_nobody_foresaw(server: ScriptedServer, tmp_path: Path) -> None:
    gone = {"grpc_ca_certs": tmp_path / "gone"}
    with pytest.raises(DoorError, match="UsageError: --grpc-ca-certs"):
        send_load(Service(server.target, "m", 300, tls=gone), workload(2, concurrency=2), 2)


def test_a_sender_that_is_killed_ends_the_load(server: ScriptedServer) -> None:
    server.script.hold = True
    with ThreadPoolExecutor() as pool:
        sent = pool.submit(send_load, Service(server.target, "m", 300), workload(2, concurrency=2), 2)
        wait_until(lambda: server.script.num_calls == 2, "both processes send")
        senders = [pid for pid in descendants(os.getpid()) if "spawn_main" in " ".join(command_line(pid))]
        os.kill(senders[0], signal.SIGKILL)
        with pytest.raises(DoorError, match="a process that sends ended with code -9"):
            sent.result(TIMEOUT_S)
