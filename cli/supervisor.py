"""Keeps child processes running: starts, watches, restarts and stops them together."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_STOP = (signal.SIGTERM, signal.SIGINT)
_WATCHED = (*_STOP, signal.SIGCHLD)
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # loaded here: a process that was forked among threads had better load nothing
_IDLE_WAIT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Policy:
    """When a child that died is started again."""

    first_delay_s: float = 0.5
    max_delay_s: float = 15.0
    max_failures: int = 5
    """In a row. A child that ran for `healthy_s` starts a new row."""
    healthy_s: float = 60.0
    ready_poll_s: float = 0.1


class Child:
    """One supervised process: its command, and the process while there is one."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        variables: Mapping[str, str] | None = None,
        final_codes: Collection[int] = (),
        descriptors: Collection[int] = (),
    ) -> None:
        """Describe a process.

        Args:
            name: for the log.
            argv: starts it.
            variables: added to the environment, which others cannot read as they can a command line.
            final_codes: exit codes by which it says that starting it again is of no use.
            descriptors: open files that it inherits.
        """
        self.variables = variables or {}
        self.name = name
        self.final_codes = final_codes
        self.failures = 0
        self.restart_at: float | None = None
        self._argv = argv
        self._descriptors = descriptors
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0

    def start(self) -> None:
        """Start the process. It gets SIGTERM if this one dies."""
        parent = os.getpid()
        self.restart_at = None
        self._started_at = time.monotonic()
        # A group of its own: Ctrl-C then reaches this process alone, which passes on one signal.
        self._process = subprocess.Popen(
            self._argv,
            env={**os.environ, **self.variables},
            pass_fds=self._descriptors,
            process_group=0,
            preexec_fn=lambda: _in_child(parent),
        )

    def exit_code(self) -> int | None:
        """Return how the process ended; None while it runs or was not started."""
        return None if self._process is None else self._process.poll()

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def send(self, number: int) -> None:
        """Send a signal to the process if it is there."""
        if self._process is not None:
            self._process.send_signal(number)

    def note_failure(self, policy: Policy) -> float:
        """Count a death, and return the delay before the next start."""
        if time.monotonic() - self._started_at >= policy.healthy_s:
            self.failures = 0
        self.failures += 1
        self._process = None
        delay = min(policy.first_delay_s * 2.0 ** (self.failures - 1), policy.max_delay_s)
        self.restart_at = time.monotonic() + delay
        return delay


class Supervisor(Generic[Answer]):
    """Runs children until a signal, and stops them together."""

    def __init__(
        self,
        children: Sequence[Child],
        probe: Callable[[], Answer | None],
        on_ready: Callable[[Answer, float], None],
        policy: Policy | None = None,
    ) -> None:
        """`on_ready` is called once, with the probe's first answer and the seconds since `run`."""
        self._children = children
        self._probe = probe
        self._on_ready = on_ready
        self._policy = policy or Policy()
        self._ready = False

    def run(self) -> int:
        """Return the exit code: 0 after a signal and clean exits, else that of the child that failed.

        The first SIGTERM or SIGINT is passed on as SIGTERM, and so is each later one.
        """
        # Blocked signals are waited for, so that nothing runs in a handler and none is missed. They stay
        # blocked: one that comes when all has ended must not become the process's own end.
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        start = time.monotonic()
        for child in self._children:
            child.start()
        while True:
            received = signal.sigtimedwait(_WATCHED, self._longest_wait())
            if received is not None and received.si_signo in _STOP:
                return self._stop()
            failed = self._revive()
            if failed is not None:
                self._stop()
                return failed
            if not self._ready and (answer := self._probe()) is not None:
                self._ready = True
                self._on_ready(answer, time.monotonic() - start)

    def _longest_wait(self) -> float:
        """Seconds until there is something to do even if no signal comes."""
        waits = [_IDLE_WAIT_S if self._ready else self._policy.ready_poll_s]
        waits += [child.restart_at - time.monotonic() for child in self._children if child.restart_at]
        return max(0.0, min(waits))

    def _revive(self) -> int | None:
        """Start children again as the policy says. Return an exit code if one must be given up."""
        for child in self._children:
            code = child.exit_code()
            given_up = None
            if code is not None:
                given_up = self._note_failure(child, code, _describe(code))
            elif child.restart_at is not None and child.restart_at <= time.monotonic():
                given_up = self._start_again(child)
            if given_up is not None:
                return given_up
        return None

    def _start_again(self, child: Child) -> int | None:
        try:
            child.start()
        except OSError as error:  # this machine has no process or memory left: perhaps for a moment
            return self._note_failure(child, 1, f"a start that failed: {error}")
        return None

    def _note_failure(self, child: Child, code: int, how: str) -> int | None:
        """Plan the next start. Return an exit code if there must be none."""
        delay = child.note_failure(self._policy)
        when = self._why_give_up(child, code)
        if when is not None:
            logger.error("%s ended %s, with %s: giving up", child.name, when, how)
            return code if code > 0 else 1
        logger.error(
            "%s ended with %s: starting it again in %.1f s (attempt %d of %d)",
            child.name, how, delay, child.failures, self._policy.max_failures,
        )  # fmt: skip
        return None

    def _why_give_up(self, child: Child, code: int) -> str | None:
        """Say when a child ended, in words, if it must not be started again."""
        if not self._ready:
            return "before it was ready"
        if code in child.final_codes:
            return "for good"
        return f"{child.failures} times in a row" if child.failures > self._policy.max_failures else None

    def _stop(self) -> int:
        """Let the children drain, and return 0 if all of them end well.

        A later signal may meet a child that has drained and takes none any more: then it ends by it, as told.
        """
        alive = [child for child in self._children if child.running]
        for child in alive:
            child.send(signal.SIGTERM)
        while any(child.running for child in alive):
            received = signal.sigwaitinfo(_WATCHED)
            if received.si_signo in _STOP:
                for child in alive:
                    child.send(signal.SIGTERM)
        failed = [child for child in alive if child.exit_code() not in (0, -signal.SIGTERM)]
        for child in failed:
            logger.error("%s ended with %s", child.name, _describe(child.exit_code() or 0))
        return 1 if failed else 0


def _in_child(parent: int) -> None:
    """Between fork and exec: take signals again, and die with the parent (Linux)."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)


def _describe(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
