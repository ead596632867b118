"""An engine that fails again and again: the wait, the giving up, and what everybody is told of it."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest
from engine_program import SECRET
from fake_house import FakeHouse
from grpc_health.v1 import health_pb2, health_pb2_grpc
from open_calls import body
from processes import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

pytestmark = pytest.mark.check("R19")

TIMEOUT_S = 100.0
FOR_LONG = {"first_delay_s": 3600.0, "longest_delay_s": 3600.0}


@pytest.fixture(scope="module")
def fake_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHouse]:
    with FakeHouse(tmp_path_factory.mktemp("house"), restarts=FOR_LONG) as house:
        yield house


def said_by_http(house: FakeHouse) -> str:
    response = httpx.get(f"{house.base_url}/health/ready", timeout=TIMEOUT_S)
    return "" if response.status_code == 200 else str(response.json()["error"]["message"])


def said_by_grpc(house: FakeHouse) -> str:
    with grpc.insecure_channel(house.target) as channel:
        request: Any = health_pb2_grpc.HealthStub(channel).Check.with_call(health_pb2.HealthCheckRequest())
        response, call = request
        assert response.status == health_pb2.HealthCheckResponse.NOT_SERVING
        return str(dict(call.trailing_metadata())["pagewire-not-ready-reason"])


def end_server(house: FakeHouse) -> int:
    """Tell it to end, and return its exit code."""
    house.server.send_signal(signal.SIGTERM)
    return house.server.wait(TIMEOUT_S)


def start_server(house: FakeHouse, **settings: Any) -> subprocess.Popen[bytes]:
    process = house.start_server(**settings)
    house.wait_until_ready()
    house.wait_until_served()
    return process


def test_a_killed_engine_is_named_at_both_doors_while_the_next_is_waited_for(fake_house: FakeHouse) -> None:
    os.kill(fake_house.engine_pid(), signal.SIGKILL)
    wait_until(lambda: "SIGKILL" in said_by_http(fake_house), "the failure is told", TIMEOUT_S)
    expected = "the engine failed (signal SIGKILL) and is being started again"
    assert said_by_grpc(fake_house) == expected
    assert said_by_http(fake_house).startswith(expected)
    assert end_server(fake_house) == 0  # it does not wait for its next attempt


@pytest.mark.check("S23")
def test_an_error_of_a_step_is_told_without_its_text(fake_house: FakeHouse) -> None:
    start_server(fake_house)
    fault = fake_house.model / "fault"
    fault.write_text("raise")
    answers = [
        httpx.post(f"{fake_house.base_url}{path}", json=body(path, 5, stream=False), timeout=TIMEOUT_S)
        for path in ("/v1/chat/completions", "/v1/completions")
    ]
    wait_until(lambda: "internal error" in said_by_http(fake_house), "the failure is told", TIMEOUT_S)
    fault.unlink()
    said = [said_by_http(fake_house), said_by_grpc(fake_house), *(answer.text for answer in answers)]
    assert [answer.status_code for answer in answers] == [503, 503]
    secrets = ("hf_abc", "/etc", "0x7f", "RuntimeError", "Traceback")
    assert not any(word in text for word in secrets for text in said), said
    assert SECRET in fake_house.log.read_text()
    assert end_server(fake_house) == 0


def test_an_engine_that_keeps_crashing_is_given_up_aloud(fake_house: FakeHouse) -> None:
    start_server(fake_house, restarts={"first_delay_s": 0.05})
    num_before = fake_house.log.read_text().count("starting it again in")
    fault = fake_house.model / "fault"
    fault.write_text("crash")
    os.kill(fake_house.engine_pid(), signal.SIGKILL)
    reasons: set[str] = set()

    def ended() -> bool:
        reasons.add(said_by_http(fake_house))
        return fake_house.server.poll() is not None

    wait_until(ended, "the server has ended", TIMEOUT_S)
    fault.unlink()
    assert fake_house.server.returncode == 3
    log = fake_house.log.read_text()
    assert log.count("starting it again in") == num_before + 4
    assert "giving up: the engine failed too often, at last: exit code 9" in log
    assert any("the engine failed (" in reason for reason in reasons), reasons
    unreachable, _, last = said_by_http(fake_house).partition(" At last it said: ")
    assert unreachable == "The model server cannot be reached."
    assert last.startswith("the engine"), last
    assert last in reasons


def test_a_model_that_cannot_be_loaded_ends_the_server_at_once(fake_house: FakeHouse) -> None:
    fault = fake_house.model / "fault"
    fault.write_text("memory")
    assert fake_house.start_server().wait(TIMEOUT_S) == 1
    fault.unlink()
    assert "MemoryError" in fake_house.log.read_text()
