"""The engine as the server sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.messages import EngineInfo, EngineRequest, EngineStats, RequestOutput
    from server.engine_failure import FailureReason
    from server.step_totals import StepTotals


class EngineUnavailableError(Exception):
    """The engine process is not there: loading, restarting, or lost while it ran the request."""


class Outlet(Protocol):
    """Where goes what the engine brings for one sequence. It is called as things come, and does not raise."""

    def put(self, output: RequestOutput) -> None:
        """Take an output. The last one has a finish reason."""

    def fail(self, error: BaseException) -> None:
        """Hear that the engine was lost, and brings no more."""


class Engine(Protocol):
    """Runs sequences. Implemented by `EngineProcess`, and by a scripted fake in tests."""

    @property
    def info(self) -> EngineInfo:
        """What the engine loaded. Raises EngineUnavailableError before the first load."""

    @property
    def stats(self) -> EngineStats:
        """The newest known gauges and counters; none are left of an engine that has ended."""

    @property
    def totals(self) -> EngineStats:
        """The same gauges, with the counters of all engines since the server started."""

    @property
    def last_step_age_s(self) -> float | None:
        """Time since the last step of this engine ended; None before the first."""

    @property
    def steps(self) -> StepTotals:
        """What the steps of all engines took since the server started."""

    @property
    def restarts(self) -> Mapping[FailureReason, int]:
        """Times the engine process was started again, by what it had failed by. A value of its own."""

    @property
    def not_ready_reason(self) -> str | None:
        """Why no request can run now; None while the engine is ready."""

    def submit(self, request: EngineRequest, outlet: Outlet) -> None:
        """Queue a sequence, whose outputs go into an outlet.

        Raises:
            EngineUnavailableError: the engine is not there.
        """

    async def load_adapter(self, adapter: int, path: str) -> int:
        """Load a LoRA adapter under an id, and return its rank. The engine has it again after a restart.

        Raises:
            AdapterError: it cannot be used with this model.
            EngineUnavailableError: the engine is not there, or was lost meanwhile.
        """

    def unload_adapter(self, adapter: int) -> None:
        """Forget an adapter that no sequence uses."""

    def has_adapter(self, adapter: int) -> bool:
        """Whether an adapter is there: after a restart it may be lost, if its files are."""

    def reset_prefix_cache(self) -> None:
        """Forget all cached prefixes that no running sequence holds.

        Raises:
            EngineUnavailableError: the engine is not there.
        """

    def abort(self, request_id: str) -> None:
        """End a sequence now: its last output has finish reason ABORTED. Unknown ids are ignored."""
