"""A model is loaded under strace: nothing is connected to, and nothing but our own processes is started."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import grpc
import pytest
from processes import STOP_TIMEOUT_S, descendants, free_ports, wait_until
from tiny_model import make_tiny_model

from pagewire.v1 import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = [pytest.mark.check("S22"), pytest.mark.timeout(300)]

OURS = re.compile(r'"-m", "(cli|engine|server\.\w+)"')
COMPILER = re.compile(r'execve\("[^"]*/(\w+-linux-gnu-)?(cc|cc1|gcc|clang|as|collect2|ld)(-[\d.]+)?"')
"""It makes the CPU's kernels, the first time on a machine."""
LIBRARIES = re.compile(r'execve\("/sbin/ldconfig", \["/sbin/ldconfig", "-p"\]')
"""Where Triton looks for the driver of a GPU, if torch was built for one."""
CONNECTS = re.compile(r"(connect|sendto)\(.*AF_INET")
BINDS = re.compile(r"bind\(.*AF_INET")
LOOPBACK = re.compile(r'"(::1|::ffff:127\.0\.0\.1|127\.0\.0\.1)"')


def can_trace() -> bool:
    return shutil.which("strace") is not None and not subprocess.call(["strace", "-qqo/dev/null", "true"])


def traced(command: Sequence[str], trace: Path, log: Path) -> subprocess.Popen[bytes]:
    watched = "trace=connect,bind,sendto,execve,execveat"
    with log.open("w") as output:
        return subprocess.Popen(
            [
                "strace",
                "-f",
                "-qq",
                "-s",
                "200",
                "-e",
                watched,
                "-e",
                "signal=none",
                "-o",
                str(trace),
                *command,
            ],
            stdout=output,
            stderr=output,
        )


def is_ready(target: str) -> bool:
    with grpc.insecure_channel(target) as channel, contextlib.suppress(grpc.RpcError):
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        return bool(stub.GetStats(admin_pb2.GetStatsRequest(), timeout=30).ready)
    return False


def test_loading_a_model_connects_nowhere_and_starts_nothing_else(tmp_path: Path) -> None:
    if not can_trace():
        pytest.skip("there is no strace that may trace: NOT CHECKED that loading connects nowhere")
    model = make_tiny_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    code = {"auto_map": {"AutoConfig": "owner/repo--mine.MyConfig"}, "_name_or_path": "http://127.0.0.1:9/x"}
    (model / "config.json").write_text(json.dumps(config | code))
    port, admin_port = free_ports(2)
    flags = [
        f"--port={port}",
        f"--admin-port={admin_port}",
        "--metrics-port=0",
        "--kv-cache-memory-bytes=64M",
    ]
    command = [sys.executable, "-m", "cli", "serve", f"--model={model}", "--device=cpu", *flags]
    trace, log = tmp_path / "trace", tmp_path / "log"
    process = traced(command, trace, log)
    try:
        wait_until(
            lambda: is_ready(f"127.0.0.1:{admin_port}"), f"it is ready; its log is {log}", timeout_s=200
        )
        (server,) = descendants(process.pid)[:1]
        os.kill(server, signal.SIGTERM)
        assert process.wait(STOP_TIMEOUT_S) == 0, log.read_text()
    finally:
        for pid in [*descendants(process.pid), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
    calls = trace.read_text().splitlines()
    started = [call for call in calls if "exec" in call and call.endswith("= 0")]
    assert len(started) >= 2, "the server and its engine"
    known = (OURS, COMPILER, LIBRARIES)
    assert not [call for call in started if not any(each.search(call) for each in known)]
    assert not [call for call in calls if CONNECTS.search(call)]
    assert not [call for call in calls if BINDS.search(call) and not LOOPBACK.search(call)]
