"""A command of ours at a terminal, typed at by a test."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT_S = 60.0


class Terminal:
    """`python -m cli` with these words, both of whose outputs and whose input are one terminal."""

    def __init__(self, words: Sequence[str]) -> None:
        self._screen, side = pty.openpty()
        self._unread = ""
        environment = {**os.environ, "TERM": "dumb"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli", *words], stdin=side, stdout=side, stderr=side, env=environment
        )
        os.close(side)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._screen)

    def type(self, keys: str) -> None:
        os.write(self._screen, keys.encode())

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)

    def read_until(self, text: str) -> str:
        """Return what was shown since the last call, up to and with this text."""
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self._unread:
            readable, _, _ = select.select([self._screen], [], [], deadline - time.monotonic())
            assert readable, f"{text!r} was not shown, but {self._unread!r}"
            self._unread += os.read(self._screen, 4096).decode()
        shown, _, self._unread = self._unread.partition(text)
        return shown + text

    def wait(self) -> int:
        return self.process.wait(TIMEOUT_S)
