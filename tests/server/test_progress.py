from __future__ import annotations

import io
import logging
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
    assert caplog.messages == []
