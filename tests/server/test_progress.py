from __future__ import annotations

import io
import logging
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING

from server.progress import LINE_INTERVAL_S, Progress

if TYPE_CHECKING:
    import pytest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_a_stage_is_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now_s = 0.0
    progress = Progress(io.StringIO(), clock=lambda: now_s)
    for done in range(4):
        progress("loading weights", done, 4)
        now_s += LINE_INTERVAL_S / 2
    progress("warming up", 0, 0)
    progress.close()
    assert caplog.messages == ["loading weights: 0%", "loading weights: 50%", "warming up: begun"]


def test_on_a_terminal_a_stage_is_a_bar(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    terminal = Terminal()
    progress = Progress(terminal)
    progress("loading weights", 1, 4)
    progress("loading weights", 4, 4)
    progress.close()
    assert "loading weights" in terminal.getvalue()
    assert "25%" in terminal.getvalue()
    assert caplog.messages == []


def test_a_bar_without_a_total_shows_the_time_alone() -> None:
    terminal = Terminal()
    progress = Progress(terminal)
    progress("warming up", 0, 0)
    progress.close()
    assert "warming up [00:00]" in terminal.getvalue()


def test_a_terminal_that_does_not_know_its_size_gets_a_bar() -> None:
    program = "from server.progress import Progress; Progress()('loading weights', 1, 4)"
    leader, follower = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", program], stdin=follower, stdout=follower, stderr=follower, check=True
    )
    assert b"25%" in os.read(leader, 4096)
    os.close(follower)
    os.close(leader)
