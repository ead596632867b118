"""What tells a long step from one that will never end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from engine.pulse import Pulse, some_thread_wants_cpu

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.check("R02")


def pulse(turns: Iterable[int], cpu_s: Iterable[float], wants_cpu: Iterable[bool]) -> Pulse:
    return Pulse(iter(turns).__next__, iter(cpu_s).__next__, iter(wants_cpu).__next__)


def test_a_loop_that_turns_is_alive() -> None:
    beating = pulse(turns=[0, 1, 2], cpu_s=[0.0] * 3, wants_cpu=[False] * 3)
    assert [beating.beats() for _ in range(3)] == [True, True, True]


def test_a_step_that_computes_is_alive() -> None:
    beating = pulse(turns=[7] * 4, cpu_s=[1.0, 2.0, 2.5, 2.51], wants_cpu=[False] * 4)
    assert [beating.beats() for _ in range(4)] == [True, True, True, False]


def test_a_step_that_cannot_get_the_cpu_is_alive() -> None:
    beating = pulse(turns=[7] * 3, cpu_s=[1.0] * 3, wants_cpu=[True, False])
    assert [beating.beats() for _ in range(3)] == [True, True, False]


def test_threads_that_compute_are_seen() -> None:
    done = threading.Event()

    def compute() -> None:
        while not done.is_set():
            pass

    thread = threading.Thread(target=compute)
    thread.start()
    try:
        assert any(some_thread_wants_cpu() for _ in range(1000))
    finally:
        done.set()
        thread.join()


def test_a_process_that_rests_has_no_pulse() -> None:
    """In a child of one thread beside ours, which waits for a pipe that nobody writes to."""
    reading, writing = os.pipe()
    program = (
        "import threading, os, sys, time\n"
        "from engine.pulse import some_thread_wants_cpu as wants\n"
        "threading.Thread(target=os.read, args=(int(sys.argv[1]), 1), daemon=True).start()\n"
        "while wants(): time.sleep(0.01)\n"
    )
    words = [sys.executable, "-c", program, str(reading)]
    try:
        assert subprocess.run(words, pass_fds=[reading], timeout=60, check=False).returncode == 0
    finally:
        os.close(reading)
        os.close(writing)
