"""The engine is killed; the server is told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import httpx
import pytest
from processes import wait_until

import pagewire

if TYPE_CHECKING:
    from processes import House

LONG = [{"role": "user", "content": "Count from one to one thousand."}]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def read_to_the_end(stream: pagewire.Stream) -> pagewire.PagewireError | None:
    try:
        for _ in stream:
            pass
    except pagewire.PagewireError as error:
        return error
    return None


@pytest.mark.check("R01")
def test_a_killed_engine_fails_open_streams_and_comes_back(house: House, client: pagewire.Client) -> None:
    house.wait_until_idle()
    restarts = house.stats().num_engine_restarts
    streams = [client.stream(messages=LONG, ignore_eos=True, max_tokens=4000) for _ in range(3)]
    for stream in streams:
        next(stream.texts())
    with ThreadPoolExecutor(len(streams)) as readers:
        ends = [readers.submit(read_to_the_end, stream) for stream in streams]
        os.kill(house.engine_pid(), signal.SIGKILL)
        for end in ends:
            error = end.result(100)
            assert isinstance(error, pagewire.UnavailableError)
            assert error.request_id
    assert not client.is_ready()
    assert httpx.get(f"{house.base_url}/health/ready", timeout=30).status_code == 503
    assert httpx.get(f"{house.base_url}/health/live", timeout=30).status_code == 200
    house.wait_until_ready()
    assert client.chat(QUESTION, temperature=0).choices[0].text == "The capital of France is Paris."
    assert house.stats().num_engine_restarts == restarts + 1
    house.wait_until_idle()


@pytest.mark.check("R12")
def test_sigterm_lets_running_requests_end_and_refuses_new_ones(server: House) -> None:
    with pagewire.Client(server.grpc_target, timeout=100) as client:
        stream = client.stream(messages=LONG, ignore_eos=True, max_tokens=60)
        next(stream.texts())
        server.process.send_signal(signal.SIGTERM)

        def refused() -> bool:
            try:
                client.chat(QUESTION, max_tokens=1)
            except pagewire.UnavailableError:
                return True
            return False

        wait_until(refused, "new requests are refused")
        assert sum(1 for _ in stream) > 0
        assert stream.finished is not None
        assert stream.finished.usage.num_completion_tokens == 60
    assert server.process.wait(30) == 0


@pytest.mark.check("S07")
def test_a_second_server_on_the_same_port_is_refused(server: House) -> None:
    port = server.grpc_target.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "cli", "serve", f"--port={port}", "--admin-port=0", "--metrics-port=0"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--port" in done.stderr
    with grpc.insecure_channel(server.grpc_target) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)


@pytest.mark.parametrize("words", [["--model", "/nowhere/at/all"], ["--model", "no-such-model"]])
def test_a_model_that_is_not_there_ends_with_an_error(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli", "serve", "--port=0", "--admin-port=0", "--metrics-port=0", *words],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert words[1] in done.stderr
    assert "Traceback" not in done.stderr
