"""A kernel of the engine writes where no memory is."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from checked_device import ON_CPU, SIZES, is_engine, on_gpu, record
from processes import STOP_TIMEOUT_S, House, descendants, free_ports, is_alive, wait_until
from questions import Agreement, Question, ask, random_prompt, read_until_lost

import pagewire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from on_gpu.conftest import Device

pytestmark = [*on_gpu, pytest.mark.check("G06")]

TOLD_LIMIT_S = 30.0 if ON_CPU else 5.0
QUESTION = Question(random_prompt(100, SIZES.vocab_size), SIZES.num_tokens)
ON_THE_CPU = {"device": "cpu", "block_size": 16, "max_num_seqs": 16}
ENGINE: dict[str, Any] = {
    "load_format": "dummy",
    "max_model_len": SIZES.tight_len,
    "num_blocks": 1000,
    **(ON_THE_CPU if ON_CPU else {}),
}


@contextlib.contextmanager
def faulty_house(model: Path, log: Path) -> Iterator[House]:
    """A server over `faulty_engine_program.py`. At the end it must end with 0."""
    port, admin_port = free_ports(2)
    settings = {
        "model": str(model),
        "port": port,
        "admin_port": admin_port,
        "enable_metrics": False,
        "engine_program": "faulty_engine_program.py",
        "engine": ENGINE,
    }
    program = Path(__file__).parents[1] / "server_program.py"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, str(program), json.dumps(settings)], stderr=stderr, text=True
        )
    house = House(process, log, f"127.0.0.1:{port}", f"127.0.0.1:{admin_port}", "")
    try:
        house.wait_until_ready()
        yield house
        process.terminate()
        assert process.wait(STOP_TIMEOUT_S) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def engine_pid(house: House) -> int:
    (pid,) = [pid for pid in descendants(house.process.pid) if is_engine(pid)]
    return pid


def exit_code_of(house: House, pid: int) -> int:
    """What the server saw: a process that a broken device aborts can no longer say it itself."""
    pattern = re.compile(rf"the engine process {pid} ended with exit code (-?\d+)")
    wait_until(lambda: pattern.search(house.log.read_text()), "the end of the process is in the log")
    found = pattern.search(house.log.read_text())
    assert found is not None
    return int(found[1])


def test_a_device_error_ends_in_typed_errors_and_a_restart(device: Device, tmp_path: Path) -> None:
    """All who wait are told within five seconds, the engine ends with an error, and its successor serves.

    The error comes from the device some time after the launch: where the engine next waits for it.
    """
    device.clear()
    with (
        faulty_house(device.model, tmp_path / "log") as house,
        pagewire.Client(house.grpc_target, timeout=300) as client,
    ):
        alone = ask(client, QUESTION, bypasses_cache=True)
        pid = engine_pid(house)
        prompts = [random_prompt(20, SIZES.vocab_size, number) for number in range(SIZES.num_streams)]
        streams = [client.stream(prompt, ignore_eos=True) for prompt in prompts]
        for stream in streams:
            next(stream)
        with ThreadPoolExecutor(len(streams)) as readers:
            ends = [readers.submit(read_until_lost, stream) for stream in streams]
            begun_s = time.monotonic()
            (device.model / "fault").touch()
            errors = [end.result() for end in ends]
        told_s = max(at_s for _, at_s in errors) - begun_s
        assert {error.reason for error, _ in errors} == {"ENGINE_UNAVAILABLE"}
        assert told_s < TOLD_LIMIT_S
        wait_until(lambda: not is_alive(pid), "the process has ended")
        exit_code = exit_code_of(house, pid)
        assert exit_code != 0
        wait_until(lambda: "the engine failed" in house.stats().not_ready_reason, "the cause is told")
        reason = house.stats().not_ready_reason
        house.wait_until_ready()
        ready_s = time.monotonic() - begun_s
        agreement = Agreement()
        agreement.add(alone, ask(client, QUESTION, bypasses_cache=True))
        assert house.stats().num_engine_restarts == 1
        assert engine_pid(house) != pid
    record(
        "G06",
        calls=len(streams),
        told_s=round(told_s, 3),
        exit_code=exit_code,
        reason=reason,
        ready_s=round(ready_s, 2),
        **agreement.figures(),
    )
