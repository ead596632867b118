"""The supervisor, in a process of its own, with small scripts as its children."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PARENT = """
import logging, os, pathlib, signal, sys
from cli.supervisor import Child, Policy, Supervisor

logging.basicConfig(format="%(message)s")
log = pathlib.Path(sys.argv[1])
log.touch()
children = [
    Child(f"child {i}", [sys.executable, "-c", program, str(log)], final_codes=[3])
    for i, program in enumerate(sys.argv[2:])
]
policy = Policy(first_delay_s=0.01, max_delay_s=0.02, max_failures=3, healthy_s=60, ready_poll_s=0.01)
supervisor = Supervisor(
    children,
    probe=lambda: "yes" if "ready" in log.read_text() else None,
    on_ready=lambda answer, seconds: os.write(1, f"{answer} {seconds >= 0}\\n".encode()),
    policy=policy,
)
code = supervisor.run()
if code == 0:
    os.kill(os.getpid(), signal.SIGTERM)  # comes late
sys.exit(code)
"""

HEAD = """
import os, signal, sys

signal.signal(signal.SIGUSR1, lambda *_: None)


def write(word):
    with open(sys.argv[1], "a") as log:
        print(word, file=log)


def lines():
    return open(sys.argv[1]).read().split()


def wait(seconds):
    signal.sigtimedwait([signal.SIGUSR1], seconds)


"""
# Says that it is there, and drains on SIGTERM.
STEADY = """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.write(1, b"started\\n")
write("ready")
signal.sigwait([signal.SIGTERM])
os.write(1, b"drained\\n")
"""
DIES_TWICE = """
write("ready")
if len(lines()) < 3:
    wait(0.3)
    os.abort()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
os.kill(os.getppid(), signal.SIGTERM)
signal.sigwait([signal.SIGTERM])
sys.exit(0)
"""
# Has drained, and is about to end, when the second signal comes: nothing takes it any more.
NEARLY_ENDED = """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
write("ready")
os.kill(os.getppid(), signal.SIGTERM)
signal.sigwait([signal.SIGTERM])
os.kill(os.getppid(), signal.SIGTERM)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
wait(60)
sys.exit(9)
"""
# Leaves its parent without a descriptor, so that no process can be started any more.
TAKES_ALL = """
import resource

write("ready")
wait(0.3)
_, hard = resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)
resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, hard))
sys.exit(7)
"""
KEEPS_DYING = """
write("ready")
wait(0.3)
sys.exit(7)
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A supervisor of two steady children, all of whom write to one pipe."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "log"), HEAD + STEADY, HEAD + STEADY],
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def read_until(process: subprocess.Popen[str], lines: dict[str, int]) -> None:
    """Read lines until each was seen as often as given."""
    wanted = dict(lines)
    assert process.stdout is not None
    while any(count > 0 for count in wanted.values()):
        line = process.stdout.readline()
        assert line, "the output ended"
        wanted[line.strip()] = wanted.get(line.strip(), 0) - 1


def supervise(tmp_path: Path, *programs: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", PARENT, str(tmp_path / "log"), *(HEAD + program for program in programs)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_all_children_and_ends_with_0(
    parent: subprocess.Popen[str], number: signal.Signals
) -> None:
    read_until(parent, {"started": 2, "yes True": 1})
    parent.send_signal(number)
    read_until(parent, {"drained": 2})
    assert parent.wait(20) == 0


@pytest.mark.check("R01")
def test_children_end_when_the_supervisor_is_killed(parent: subprocess.Popen[str]) -> None:
    read_until(parent, {"started": 2, "yes True": 1})
    parent.kill()
    read_until(parent, {"drained": 2})
    assert parent.stdout is not None
    assert parent.stdout.read() == ""


@pytest.mark.check("R01", "R04")
def test_a_child_that_dies_is_started_again(tmp_path: Path) -> None:
    done = supervise(tmp_path, DIES_TWICE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "yes True\n"
    assert (tmp_path / "log").read_text().split() == ["ready"] * 3
    assert done.stderr.count("child 0 ended with signal SIGABRT: starting it again in") == 2


@pytest.mark.check("R19")
def test_a_child_that_keeps_dying_is_given_up_and_the_other_drains(tmp_path: Path) -> None:
    done = supervise(tmp_path, KEEPS_DYING, STEADY.replace('write("ready")', ""))
    assert done.returncode == 7, done.stderr
    assert "child 0 ended 4 times in a row, with exit code 7: giving up" in done.stderr
    *before, last = done.stdout.splitlines()
    assert sorted(before) == ["started", "yes True"]  # the steady child may start late
    assert last == "drained"


@pytest.mark.check("R19")
def test_a_start_that_fails_is_tried_again_as_often_and_the_other_drains(tmp_path: Path) -> None:
    done = supervise(tmp_path, TAKES_ALL, STEADY.replace('write("ready")', ""))
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("child 0 ended with a start that failed: [Errno 24]") == 2
    assert "child 0 ended 4 times in a row, with a start that failed: [Errno 24]" in done.stderr
    assert done.stdout.splitlines()[-1] == "drained"


def test_a_child_that_ends_before_it_is_ready_ends_everything(tmp_path: Path) -> None:
    done = supervise(tmp_path, "sys.exit(3)")
    assert done.returncode == 3
    assert done.stdout == ""
    assert "child 0 ended before it was ready, with exit code 3: giving up" in done.stderr


@pytest.mark.check("R19")
def test_a_child_that_gave_up_itself_is_not_started_again(tmp_path: Path) -> None:
    done = supervise(tmp_path, KEEPS_DYING.replace("exit(7)", "exit(3)"))
    assert done.returncode == 3, done.stderr
    assert "child 0 ended for good, with exit code 3: giving up" in done.stderr
    assert "starting it again" not in done.stderr


def test_a_child_that_does_not_end_well_shows_in_the_exit_code(tmp_path: Path) -> None:
    program = DIES_TWICE.replace("sys.exit(0)", "sys.exit(9)").replace("< 3", "< 1")
    done = supervise(tmp_path, program)
    assert done.returncode == 1
    assert "child 0 ended with exit code 9" in done.stderr


@pytest.mark.check("R12")
def test_a_second_signal_that_ends_a_child_is_no_failure(tmp_path: Path) -> None:
    done = supervise(tmp_path, NEARLY_ENDED)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
