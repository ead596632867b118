"""A gRPC server of a command's own, for as long as it is needed."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cli.keys import ADMIN_API_KEY
from pagewire import Client, PagewireError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

POLL_S = 0.1
GRACE_S = 20.0


@dataclass(frozen=True, slots=True)
class OwnServer:
    """Where it listens."""

    target: str
    admin_target: str
    """Of AdminService."""
    admin_key: str = field(repr=False)
    """The key to show there, which nobody else has."""


class OwnServerError(Exception):
    """The server ended before it was ready; its log says why."""


@contextlib.contextmanager
def own_server(flags: Sequence[str]) -> Iterator[OwnServer]:
    """Start `pagewire serve` with these flags, wait until it is ready, yield its addresses, and stop it.

    Raises:
        OwnServerError: it ended before.
    """
    port, admin_port = _free_port(), _free_port()
    server = OwnServer(f"127.0.0.1:{port}", f"127.0.0.1:{admin_port}", secrets.token_hex(16))
    # -P: a folder called server/ or engine/ where the user stands must not be taken for ours.
    command = [sys.executable, "-P", "-m", "cli", "serve", f"--port={port}", f"--admin-port={admin_port}"]
    command += ["--no-enable-metrics", *flags]
    variables = os.environ | {ADMIN_API_KEY.variable: server.admin_key}
    process = subprocess.Popen(command, process_group=0, env=variables)
    try:
        _wait_until_ready(server.target, process)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(target: str, process: subprocess.Popen[bytes]) -> None:
    with Client(target, timeout=5.0) as client:
        while process.poll() is None:
            with contextlib.suppress(PagewireError):
                if client.is_ready():
                    return
            time.sleep(POLL_S)
    raise OwnServerError(f"the server ended with code {process.returncode}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
