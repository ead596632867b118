"""Long-running commands, started with a limit of descriptors that is too low for their connections."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from functools import partial
from http.client import HTTPConnection

import pytest
from processes import free_ports
from scripted_backend import BYE
from translator_process import url_of

HARD = 4096
PROGRAM = """
import resource, sys
from cli.__main__ import main
code = main(sys.argv[1:])
print(code, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def limit(soft: int, hard: int = HARD) -> partial[None]:
    return partial(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("command", ["serve", "up"])
@pytest.mark.parametrize("soft", [256, HARD])
def test_the_limit_is_raised_as_far_as_it_may_be(command: str, soft: int) -> None:
    ports = dict(zip(("port", "admin-port", "metrics-port"), free_ports(3), strict=True))
    if command == "up":
        (ports["grpc-port"],) = free_ports(1)
    words = [command, "/no/model", *(f"--{name}={port}" for name, port in ports.items())]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        preexec_fn=limit(soft),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout.split() == ["1", str(HARD), str(HARD)], done.stderr


@pytest.mark.parametrize("num_processes", [1, 2])
def test_more_connections_than_the_usual_limit_leave_the_door_open(num_processes: int) -> None:
    """The usual limit is a small one here. Processes that others start inherit what these have raised."""
    words = ["translate", "--port=0", "--grpc-target=127.0.0.1:9", f"--api-server-count={num_processes}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", *words], preexec_fn=limit(128), stderr=subprocess.PIPE, text=True
    )
    try:
        port = int(url_of(process).rpartition(":")[2])
        with contextlib.ExitStack() as stack:
            for _ in range(300):
                connection = HTTPConnection("127.0.0.1", port, timeout=BYE)
                stack.callback(connection.close)
                connection.request("GET", "/health/live")
                with connection.getresponse() as answer:
                    assert answer.status == 200
    finally:
        process.terminate()
        process.communicate(timeout=60)
