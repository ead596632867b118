"""A gRPC server of a command's own, for as long as it is needed."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from pagewire import Client, PagewireError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

POLL_S = 0.1
GRACE_S = 20.0


class OwnServerError(Exception):
    """The server ended before it was ready; its log says why."""


@contextlib.contextmanager
def own_server(flags: Sequence[str]) -> Iterator[str]:
    """Start `pagewire serve` with these flags, wait until it is ready, yield its address, and stop it.

    Raises:
        OwnServerError: it ended before.
    """
    port = _free_port()
    target = f"127.0.0.1:{port}"
    # -P: a folder called server/ or engine/ where the user stands must not be taken for ours.
    command = [sys.executable, "-P", "-m", "cli", "serve", f"--port={port}", "--admin-port=0"]
    command += ["--no-enable-metrics", *flags]
    process = subprocess.Popen(command, process_group=0)
    try:
        _wait_until_ready(target, process)
        yield target
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
