"""Real `pagewire` processes for the integration tests."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from pagewire.v1 import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class House:
    """A `pagewire` command that runs, and its addresses."""

    process: subprocess.Popen[str]
    log: Path
    grpc_target: str
    admin_target: str
    base_url: str

    def stats(self) -> admin_pb2.GetStatsResponse:
        """Ask AdminService.GetStats."""
        with grpc.insecure_channel(self.admin_target) as channel:
            return admin_pb2_grpc.AdminServiceStub(channel).GetStats(admin_pb2.GetStatsRequest(), timeout=10)

    def engine_pid(self) -> int:
        """Find the engine process among the descendants."""
        (pid,) = [pid for pid in descendants(self.process.pid) if "engine" in command_line(pid)]
        return pid

    def wait_until_idle(self) -> None:
        """Wait until no request holds a block."""

        def idle() -> bool:
            engine = self.stats().engine
            return engine.num_running == engine.num_waiting == engine.num_owned_blocks == 0

        wait_until(idle, "no request holds blocks")

    def wait_until_ready(self) -> None:
        """Wait until the server accepts requests."""

        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(grpc.RpcError):
                return self.stats().ready
            return False

        wait_until(ready, f"the server is ready; its log is {self.log}", timeout_s=110)


def pagewire_up(
    log: Path, *more_flags: str, allows_admin_over_http: bool = False
) -> contextlib.AbstractContextManager[House]:
    """Run `pagewire up` on free ports, with the default model unless flags say otherwise."""
    grpc_port, admin_port, http_port = free_ports(3)
    if allows_admin_over_http:
        more_flags = (f"--admin-target=127.0.0.1:{admin_port}", *more_flags)
    flags = [
        f"--grpc-port={grpc_port}",
        f"--admin-port={admin_port}",
        f"--port={http_port}",
        "--metrics-port=0",
    ]
    return _running(["up", *flags, *more_flags], log, (grpc_port, admin_port, http_port))


def pagewire_serve(log: Path, *more_flags: str) -> contextlib.AbstractContextManager[House]:
    """Run `pagewire serve` on free ports, with the default model unless flags say otherwise."""
    grpc_port, admin_port = free_ports(2)
    flags = [f"--port={grpc_port}", f"--admin-port={admin_port}", "--metrics-port=0"]
    return _running(["serve", *flags, *more_flags], log, (grpc_port, admin_port, 0))


@contextlib.contextmanager
def _running(command: list[str], log: Path, ports: tuple[int, int, int]) -> Iterator[House]:
    """At the end the command is told to drain, and must end with 0 and leave no process behind."""
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", *command], stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    grpc_port, admin_port, http_port = ports
    house = House(
        process,
        log,
        f"127.0.0.1:{grpc_port}",
        f"127.0.0.1:{admin_port}",
        f"http://127.0.0.1:{http_port}",
    )
    try:
        yield house
        below = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        code = process.wait(STOP_TIMEOUT_S)
        assert code == 0, f"exit code {code}\n{log.read_text()}"
        wait_until(lambda: not any(map(is_alive, below)), "all processes have ended")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
    """Ask again and again until the condition holds."""
    deadline = time.monotonic() + timeout_s
    never = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"not so after {timeout_s} s: {what}"
        never.wait(0.02)


def free_ports(count: int) -> list[int]:
    """Find ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def descendants(pid: int) -> list[int]:
    """List all processes below this one."""
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread may have ended meanwhile
            for child in listed.read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def command_line(pid: int) -> list[str]:
    """Return the words of a process's command; none if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def resident_bytes(pid: int) -> int:
    """Return the memory of a process alone."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def num_files(pid: int) -> int:
    """Count the open file descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def is_alive(pid: int) -> bool:
    """Whether there is such a process and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
