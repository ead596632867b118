"""Writes log lines on a thread of its own: a full disk or a reader that stands still holds up nobody else."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import deque

STDERR = 2
MAX_LINES = 10_000
"""That may wait to be written; later ones are lost, and counted."""
LAST_WORDS_S = 1.0
"""How long the end of the process waits for what is not written yet."""


class LogWriter(logging.Handler):
    """Takes records without waiting, and writes their lines in order.

    It writes to the descriptor itself: the end of the process would wait for a buffer that the thread holds.
    """

    def __init__(self, descriptor: int = STDERR, max_lines: int = MAX_LINES) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._max_lines = max_lines
        self._lines: deque[str] = deque()
        self._num_lost = 0
        self._is_writing = False
        self._changed = threading.Condition()
        # The thread takes no signals: they are for those who wait for them.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        threading.Thread(target=self._write_all, name="log-writer", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record's line."""
        line = self.format(record)
        with self._changed:
            if len(self._lines) < self._max_lines:
                self._lines.append(line)
            else:
                self._num_lost += 1
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything is written, but not for long."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines and not self._is_writing, LAST_WORDS_S)

    def _write_all(self) -> None:
        while True:
            text, num_lost = self._take()
            try:
                _write(self._descriptor, text.encode(errors="backslashreplace"))
            except OSError:  # the disk is full, or the reader has gone
                num_lost += 1
            else:
                num_lost = 0
            with self._changed:
                self._num_lost += num_lost
                self._is_writing = False
                self._changed.notify_all()

    def _take(self) -> tuple[str, int]:
        """Wait for a line. Return it, and how many lost ones it tells of, if it is the last that waits."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._lines))
            self._is_writing = True
            line = self._lines.popleft() + "\n"
            if self._lines or not self._num_lost:
                return line, 0
            num_lost, self._num_lost = self._num_lost, 0
            return f"{line}{num_lost} log lines were lost: they could not be written\n", num_lost


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
