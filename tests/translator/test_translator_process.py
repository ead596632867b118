"""The process: where it listens, how it stops, and what it returns."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
from scripted_backend import BYE

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = """
import logging, sys
from translator.app import run
from translator.config import TranslatorConfig
logging.basicConfig(level=logging.INFO, format="%(message)s")
sys.exit(run(TranslatorConfig(port=int(sys.argv[1]), grpc_target=sys.argv[2])))
"""


@contextmanager
def translator(port: int = 0, target: str = "127.0.0.1:9") -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(port), target], stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(r"listening on (http://\S+:\d+)", line)
        if found:
            return found[1]
    raise AssertionError("the translator said nothing")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order(number: signal.Signals) -> None:
    with translator() as process:
        url = url_of(process)
        assert httpx.get(f"{url}/health/live", timeout=BYE).status_code == 200
        process.send_signal(number)
        assert process.wait(BYE) == 0


def test_a_taken_port_is_an_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with translator(port) as process:
            _, said = process.communicate(timeout=BYE)
    assert process.returncode == 2
    assert str(port) in said
    assert "Traceback" not in said
