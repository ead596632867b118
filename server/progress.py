"""Progress of downloading and loading: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import time
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

LINE_INTERVAL_S = 5.0
_WITHOUT_TOTAL = "{desc} [{elapsed}]"


class Progress:
    """Shows one stage after the other. May be called from any thread."""

    def __init__(self, stream: TextIO = sys.stderr, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()
        self._stage = ""
        self._bar: tqdm | None = None
        self._next_line_s = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is, in bytes; a total of 0 means that nobody knows."""
        with self._lock:
            if stage != self._stage:
                self._begin(stage, done, total)
            if self._bar is not None:
                self._bar.total = total or None
                self._bar.update(done - self._bar.n)
            elif self._clock() >= self._next_line_s:
                self._next_line_s = self._clock() + LINE_INTERVAL_S
                logger.info("%s: %s", stage, f"{done / total:.0%}" if total else done or "begun")

    def close(self) -> None:
        """End the last stage."""
        with self._lock:
            self._begin("", 0, 0)

    def _begin(self, stage: str, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._stage = stage
        self._next_line_s = 0.0
        if stage and self._stream.isatty():
            # A terminal that does not know its size, as a container's, gets a bar too.
            size = shutil.get_terminal_size()
            self._bar = tqdm(
                desc=stage,
                initial=done,
                total=total or None,
                file=self._stream,
                unit="B",
                unit_scale=True,
                leave=False,
                ncols=size.columns - 1,
                nrows=size.lines,
                bar_format=None if total else _WITHOUT_TOTAL,
            )
