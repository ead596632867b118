"""Log lines whose reader stands still, has gone, or whose disk is full."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import cli.log_writer
from cli.log_writer import LogWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.check("R23")

PIPE_BYTES = 1 << 16


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    os.close(writing)


def log(writer: LogWriter, text: str) -> None:
    writer.handle(logging.LogRecord("test", logging.INFO, "", 0, text, None, None))


def read_until(reading: int, end: str) -> str:
    text = ""
    while end not in text:
        text += os.read(reading, PIPE_BYTES).decode()
    return text


def test_lines_are_written_in_order(pipe: tuple[int, int]) -> None:
    writer = LogWriter(pipe[1])
    for index in range(100):
        log(writer, f"line {index} \ud800")
    lines = read_until(pipe[0], "line 99 \\ud800\n").splitlines()
    assert lines == [f"line {index} \\ud800" for index in range(100)]
    os.close(pipe[0])


def test_a_reader_that_stands_still_holds_up_nobody_and_hears_what_it_missed(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli.log_writer, "LAST_WORDS_S", 0.01)
    writer = LogWriter(pipe[1], max_lines=10)
    for index in range(1000):
        log(writer, f"{index} {'x' * 4096}")  # far more than the pipe holds
    writer.flush()
    text, num_told, num_lost = "", 0, 0
    while num_told < 1000:  # lines that were written, and those that were said to be lost
        text += read_until(pipe[0], "\n")
        num_lost = sum(map(int, re.findall(r"^(\d+) log lines were lost", text, re.MULTILINE)))
        num_told = text.count("xxxx\n") + num_lost
    assert num_told == 1000
    assert num_lost > 0
    assert text.startswith("0 xxxx")
    log(writer, "all is well")
    assert "all is well" in read_until(pipe[0], "all is well\n")
    os.close(pipe[0])


def test_a_reader_that_has_gone_is_forgotten(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    writer = LogWriter(pipe[1])
    for index in range(10):
        log(writer, f"line {index}")
        writer.flush()


def test_lines_that_met_a_full_disk_are_counted_once_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.log_writer, "LAST_WORDS_S", 60.0)
    descriptor = os.open("/dev/full", os.O_WRONLY)
    reading, writing = os.pipe()
    writer = LogWriter(descriptor)
    for index in range(3):
        log(writer, f"lost {index}")
        writer.flush()
    os.dup2(writing, descriptor)
    log(writer, "there is room")
    assert read_until(reading, "written\n").startswith("there is room\n3 log lines were lost: ")
    for one in (descriptor, reading, writing):
        os.close(one)


@pytest.mark.parametrize("reader", ["stands still", "has gone"])
def test_a_process_ends_though_its_last_words_cannot_be_written(reader: str) -> None:
    """Its signals still reach it, too: they are not for the thread."""
    program = (
        "import logging, signal, sys\n"
        "from cli.process import set_up_logging\n"
        "set_up_logging({})\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "for _ in range(1000): logging.info('x' * 1000)\n"
        "print('logged', flush=True)\n"
        "signal.sigwait([signal.SIGTERM])\n"
        "sys.exit(7)\n"
    )
    reading, writing = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=writing)
    os.close(writing)
    if reader == "has gone":
        os.close(reading)
    assert process.stdout is not None
    assert process.stdout.readline() == b"logged\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 7
    if reader == "stands still":
        os.close(reading)
