"""A server process over the engine of `engine_program.py`, for tests that attack it from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from processes import STOP_TIMEOUT_S, free_ports, wait_until
from tiny_tokenizer import byte_level

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class ServerHouse:
    """The process, and its ports on this machine."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int
    admin_port: int
    metrics_port: int

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def resident_bytes(self) -> int:
        """Memory of the server process alone."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def is_serving(self) -> bool:
        with grpc.insecure_channel(self.target) as channel, contextlib.suppress(grpc.RpcError):
            response = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
            return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
        return False


@contextlib.contextmanager
def server_house(folder: Path, **settings: Any) -> Iterator[ServerHouse]:
    """Run a server in `folder`; `settings` are fields of ServerConfig. At the end it must end with 0."""
    model = folder / "tiny-model"
    model.mkdir()
    byte_level().save(str(model / "tokenizer.json"))
    for name in ("config.json", "tokenizer_config.json"):
        (model / name).write_text("{}")
    port, admin_port, metrics_port = free_ports(3)
    ports = {"port": port, "admin_port": admin_port, "metrics_port": metrics_port}
    command = [sys.executable, str(ROOT / "tests" / "server_program.py")]
    path = os.pathsep.join(map(str, (ROOT, ROOT / "clients/python/src", ROOT / "tests")))
    log = folder / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [*command, json.dumps({"model": str(model), **ports, **settings})],
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": path},
        )
    house = ServerHouse(process, log, port, admin_port, metrics_port)

    def is_serving() -> bool:
        assert process.poll() is None, log.read_text()
        return house.is_serving()

    try:
        wait_until(is_serving, f"the server is ready; its log is {log}", timeout_s=100)
        yield house
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_TIMEOUT_S) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
