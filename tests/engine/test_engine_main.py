"""The engine process, with the fake runner in place of a model."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from server_end import ServerEnd

from engine.messages import (
    EngineRequest,
    Fatal,
    FatalCause,
    FinishReason,
    Heartbeat,
    Loading,
    SamplingParams,
    Shutdown,
    Submit,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.messages import Frame

    Process = subprocess.Popen[bytes]
    Start = Callable[[str], tuple[ServerEnd, Process]]

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys, time
import engine.__main__
from engine.errors import ModelLoadError
from fake_runner import FakeRunner

def spin(plan):
    while True:
        pass

def load(config, on_progress):
    on_progress("loading " + config.model_path, 1, 2)
    match config.model_path:
        case "missing":
            raise ModelLoadError("no such model")
        case "hanging":
            time.sleep(600)
        case "breaking":
            runner = FakeRunner()
            runner.launch = lambda plan: 1 // 0
            return runner
        case "slow":
            runner = FakeRunner()
            runner.launch = spin
            return runner
        case "stuck":
            runner = FakeRunner()
            runner.launch = lambda plan: time.sleep(600)
            return runner
        case "full":
            raise MemoryError("0x7f00 of /etc/passwd")
    return FakeRunner()

engine.__main__.ORPHAN_GRACE_S = engine.__main__.HEARTBEAT_INTERVAL_S = 0.05
sys.exit(engine.__main__.main(load=load))
"""


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[tuple[ServerEnd, Process]] = []

    def start(model_path: str) -> tuple[ServerEnd, Process]:
        server = ServerEnd()
        descriptor = server.theirs.fileno()
        config = f'{{"model_path": "{model_path}"}}'
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "--channel-fd", str(descriptor), "--config", config],
            pass_fds=[descriptor],
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        )
        server.theirs.close()
        started.append((server, process))
        return server, process

    yield start
    for server, process in started:
        process.kill()
        process.communicate()
        server.close()


def said(server: ServerEnd) -> Frame:
    """The next frame that is no heartbeat."""
    while isinstance(frame := server.receive(), Heartbeat):
        pass
    return frame


def submit() -> Submit:
    return Submit(EngineRequest("r", [2, 3, 4], SamplingParams(max_tokens=5)))


def errors_of(process: Process) -> str:
    return process.communicate(timeout=30)[1].decode()


def test_loads_serves_and_shuts_down(start: Start) -> None:
    server, process = start("fake")
    assert said(server) == Loading("loading fake", 1, 2)
    server.wait_ready()
    server.send(submit())
    assert server.outputs_until_end_of("r")["r"][-1].finish_reason is FinishReason.LENGTH
    server.send(Shutdown())
    assert process.wait(30) == 0


def test_ends_when_the_server_is_gone(start: Start) -> None:
    server, process = start("fake")
    server.wait_ready()
    server.close()
    assert process.wait(30) == 0


@pytest.mark.check("R01")
@pytest.mark.parametrize("model_path", ["hanging", "slow", "stuck"])
def test_ends_with_the_server_even_if_it_hangs(start: Start, model_path: str) -> None:
    server, process = start(model_path)
    said(server)
    if model_path != "hanging":
        server.wait_ready()
        server.send(submit())
    server.close()
    assert process.wait(30) == 1


@pytest.mark.check("R02")
def test_beats_while_a_model_loads(start: Start) -> None:
    server, _ = start("hanging")
    assert isinstance(said(server), Loading)
    assert all(isinstance(server.receive(), Heartbeat) for _ in range(30))


@pytest.mark.check("R02")
def test_beats_while_a_step_runs(start: Start) -> None:
    server, _ = start("slow")
    server.wait_ready()
    server.send(submit())
    assert all(isinstance(server.receive(), Heartbeat) for _ in range(30))


@pytest.mark.check("R02")
def test_does_not_beat_while_a_step_waits_for_nothing(start: Start) -> None:
    server, _ = start("stuck")
    server.wait_ready()
    server.send(submit())
    with pytest.raises(TimeoutError):
        all(isinstance(server.receive(timeout_s=2.0), Heartbeat) for _ in itertools.count())


def test_an_interrupt_is_left_to_the_server(start: Start) -> None:
    server, process = start("fake")
    server.wait_ready()
    process.send_signal(signal.SIGINT)
    server.send(submit())
    server.outputs_until_end_of("r")
    server.send(Shutdown())
    assert process.wait(30) == 0


def test_a_model_that_cannot_be_loaded(start: Start) -> None:
    server, process = start("missing")
    said(server)
    assert said(server) == Fatal("no such model", FatalCause.LOADING)
    assert "Traceback" not in errors_of(process)
    assert process.returncode == 1


def test_an_unexpected_error_is_fatal(start: Start) -> None:
    server, process = start("breaking")
    server.wait_ready()
    server.send(submit())
    frame = said(server)
    assert isinstance(frame, Fatal)
    assert frame.message.startswith("ZeroDivisionError")
    assert frame.cause == "an internal error"
    assert "Traceback" in errors_of(process)
    assert process.returncode == 1


@pytest.mark.check("R19", "S23")
def test_the_cause_of_a_failure_tells_no_secrets(start: Start) -> None:
    server, _ = start("full")
    said(server)
    assert said(server) == Fatal("MemoryError: 0x7f00 of /etc/passwd", FatalCause.OUT_OF_MEMORY)
