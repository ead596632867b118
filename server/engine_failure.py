"""Why an engine process ended without being asked to."""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.messages import FatalCause

if TYPE_CHECKING:
    from engine.messages import Fatal


class FailureReason(enum.StrEnum):
    """Stable names of what an engine may fail by."""

    KILLED = "killed"
    """By a signal that was not ours."""
    EXITED = "exited"
    """Without a word."""
    STUCK = "stuck"
    """The watchdog found it, and it was killed."""
    OUT_OF_MEMORY = "out_of_memory"
    DEVICE = "device"
    LOADING = "loading"
    """The model, which had been loaded before, could not be loaded again."""
    INTERNAL = "internal"
    NOT_STARTED = "not_started"
    """The system gave us no process."""


_BY_CAUSE = {
    FatalCause.LOADING: FailureReason.LOADING,
    FatalCause.OUT_OF_MEMORY: FailureReason.OUT_OF_MEMORY,
    FatalCause.DEVICE: FailureReason.DEVICE,
    FatalCause.INTERNAL: FailureReason.INTERNAL,
}


@dataclass(frozen=True, slots=True)
class EngineFailure:
    """One end of one process."""

    reason: FailureReason
    message: str
    """For the operator's log."""
    cause: str
    """In words that anybody may read."""

    @property
    def is_reported(self) -> bool:
        """Whether the engine said so itself."""
        return self.reason in _BY_CAUSE.values()

    @classmethod
    def reported(cls, fatal: Fatal) -> EngineFailure:
        """The engine said so with its last frame."""
        return cls(_BY_CAUSE[fatal.cause], fatal.message, fatal.cause)

    @classmethod
    def stuck(cls, why: str) -> EngineFailure:
        """The watchdog said so."""
        return cls(FailureReason.STUCK, f"it was stuck: {why}", why)

    @classmethod
    def not_started(cls, error: OSError) -> EngineFailure:
        """There never was a process."""
        return cls(FailureReason.NOT_STARTED, f"no process: {error}", f"no process: {error.strerror}")

    @classmethod
    def ended(cls, exit_code: int) -> EngineFailure:
        """It ended by itself or by a signal, whose number is then negative."""
        if exit_code < 0:
            how = f"signal {signal.Signals(-exit_code).name}"
            return cls(FailureReason.KILLED, how, how)
        how = f"exit code {exit_code}"
        return cls(FailureReason.EXITED, how, how)
