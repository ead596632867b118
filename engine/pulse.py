"""Tells a step that takes its time from one that will never end.

The engine's loop is alive while it turns. Within a step it does not turn, but then something computes: this
process uses the CPU (a thread that waits for a GPU polls it), or a thread or a child of it wants to. Where
all of them rest, the loop waits for what nobody is going to bring.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TASKS = Path("/proc/self/task")
RESTING_CPU_S = 0.02
"""What a resting process may use between two questions."""
_RUNNING, _WAITING_FOR_DISK = "R", "D"


class Pulse:
    """Asked about once a second, by a thread beside the loop."""

    def __init__(
        self,
        num_turns: Callable[[], int],
        cpu_s: Callable[[], float] = time.process_time,
        wants_cpu: Callable[[], bool] | None = None,
    ) -> None:
        """`num_turns` of the loop, `cpu_s` used by the process, `wants_cpu`: whether more of it would be."""
        self._num_turns = num_turns
        self._cpu_s = cpu_s
        self._wants_cpu = wants_cpu or some_thread_wants_cpu
        self._last_turns = -1
        self._last_cpu_s = 0.0

    def beats(self) -> bool:
        """Whether the loop has turned since the last call, or something computes."""
        num_turns, cpu_s = self._num_turns(), self._cpu_s()
        has_turned = num_turns != self._last_turns
        has_computed = cpu_s - self._last_cpu_s > RESTING_CPU_S
        self._last_turns, self._last_cpu_s = num_turns, cpu_s
        return has_turned or has_computed or self._wants_cpu()


def some_thread_wants_cpu() -> bool:
    """Whether a thread other than the caller's, or a child process, runs or would like to.

    Where the system does not say it, that is assumed.
    """
    if not TASKS.is_dir():
        return True
    own = threading.get_native_id()
    return any(state in (_RUNNING, _WAITING_FOR_DISK) for state in _states(own))


def _states(but: int) -> Iterator[str]:
    for task in TASKS.iterdir():
        if int(task.name) != but:
            yield _state(task)
        for child in _read(task / "children").split():
            yield _state(Path("/proc") / child)


def _state(task: Path) -> str:
    """The letter that a task's state has; empty if it has ended."""
    return _read(task / "stat").rpartition(")")[2][1:2]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
