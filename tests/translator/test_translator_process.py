"""The process: where it listens, how it stops, and what it returns."""

from __future__ import annotations

import signal
import socket

import httpx
import pytest
from scripted_backend import BYE
from translator_process import translator, url_of


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
