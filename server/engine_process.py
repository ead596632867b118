"""The engine in a process of its own: started, watched over and started again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from engine.messages import (
    Abort,
    AdapterLoaded,
    AdapterRefused,
    Fatal,
    FinishReason,
    Heartbeat,
    Loading,
    Ready,
    RequestOutput,
    ResetPrefixCache,
    StepOutputs,
    Submit,
)
from server.delivery import Delivery
from server.engine import EngineUnavailableError
from server.engine_adapters import EngineAdapters
from server.engine_failure import EngineFailure
from server.engine_history import EngineHistory
from server.engine_link import ENGINE_COMMAND, EngineLink
from server.restart_policy import RestartLimits, RestartPolicy
from server.step_totals import StepTotals
from server.watchdog import STEP_TIMEOUT_S, TICK_S, Watchdog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from engine.config import EngineConfig
    from engine.messages import EngineInfo, EngineRequest, EngineStats, Frame, Vocabulary
    from server.engine import Outlet
    from server.engine_failure import FailureReason

logger = logging.getLogger(__name__)

_LOADING = "the model is loading"


class EngineStartError(Exception):
    """The engine cannot be started; the text is for the operator."""


class EngineGivenUpError(EngineStartError):
    """The engine fails again and again."""


class EngineProcess:
    """Implements `server.engine.Engine` by a process that `run` keeps alive."""

    def __init__(
        self,
        on_progress: Callable[[str, int, int], None],
        on_change: Callable[[], None],
        *,
        command: Sequence[str] = ENGINE_COMMAND,
        step_timeout_s: float = STEP_TIMEOUT_S,
        limits: RestartLimits | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Prepare an engine; `run` starts it.

        Args:
            on_progress: called with stage, done and total while the engine loads.
            on_change: called when readiness may have changed.
            command: starts the process.
            step_timeout_s: a step that computes for longer is taken for stuck.
            limits: when to start the process again.
            sleep: lets the watchdog's time pass.
        """
        self._on_progress = on_progress
        self._on_change = on_change
        self._command = command
        self._step_timeout_s = step_timeout_s
        self._limits = limits or RestartLimits()
        self._policy = RestartPolicy(self._limits)
        self._sleep = sleep
        self._watchdog = Watchdog(step_timeout_s)
        self._link: EngineLink | None = None
        self._info: EngineInfo | None = None
        self._vocabulary: Vocabulary | None = None
        self._not_ready_reason: str | None = _LOADING
        self._deliveries: dict[str, Delivery] = {}
        self._adapters = EngineAdapters()
        self._failure: EngineFailure | None = None
        self._loaded = asyncio.Event()
        self._stopping = asyncio.Event()
        self._history = EngineHistory()
        self._last_step_s: float | None = None
        self.restarts: Mapping[FailureReason, int] = {}
        self.steps = StepTotals()

    @property
    def info(self) -> EngineInfo:
        """See `server.engine.Engine`."""
        if self._info is None:
            raise EngineUnavailableError(_LOADING)
        return self._info

    @property
    def stats(self) -> EngineStats:
        """See `server.engine.Engine`."""
        return self._history.stats

    @property
    def totals(self) -> EngineStats:
        """See `server.engine.Engine`."""
        return self._history.totals

    @property
    def last_step_age_s(self) -> float | None:
        """See `server.engine.Engine`."""
        return None if self._last_step_s is None else time.monotonic() - self._last_step_s

    @property
    def not_ready_reason(self) -> str | None:
        """See `server.engine.Engine`."""
        return self._not_ready_reason

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._link is None else self._link.pid

    def learn(self, vocabulary: Vocabulary) -> None:
        """Tell the engine, and those that are started after it, what the tokens stand for."""
        self._vocabulary = vocabulary
        if self._link is not None:
            self._link.send(vocabulary)

    async def load_adapter(self, adapter: int, path: str) -> int:
        """See `server.engine.Engine`."""
        return await self._adapters.load(self._ready_link(), adapter, path)

    def unload_adapter(self, adapter: int) -> None:
        """See `server.engine.Engine`."""
        self._adapters.unload(self._link, adapter)

    def has_adapter(self, adapter: int) -> bool:
        """See `server.engine.Engine`."""
        return adapter in self._adapters

    def reset_prefix_cache(self) -> None:
        """See `server.engine.Engine`."""
        self._ready_link().send(ResetPrefixCache())

    def submit(self, request: EngineRequest, outlet: Outlet) -> None:
        """See `server.engine.Engine`."""
        link = self._ready_link()
        assert request.request_id not in self._deliveries, request.request_id
        self._deliveries[request.request_id] = Delivery(outlet, self.steps.token_gaps)
        link.send(Submit(request))

    def _ready_link(self) -> EngineLink:
        if self._not_ready_reason is not None or self._link is None:
            raise EngineUnavailableError(self._not_ready_reason)
        return self._link

    def abort(self, request_id: str) -> None:
        """See `server.engine.Engine`."""
        delivery = self._deliveries.pop(request_id, None)
        if delivery is not None and self._link is not None:
            self._link.send(Abort(request_id))
            delivery.put(RequestOutput(request_id, finish_reason=FinishReason.ABORTED))

    async def loaded(self) -> EngineInfo:
        """Wait for the engine to be loaded for the first time."""
        await self._loaded.wait()
        return self.info

    async def run(self, config: EngineConfig) -> None:
        """Keep a process running until `stop`.

        Raises:
            EngineStartError: the model cannot be loaded.
            EngineGivenUpError: the process has failed too often.
        """
        while True:
            failure = await self._run_process(config)
            if self._stopping.is_set():
                return
            if self._info is None and failure.is_reported:
                self._become(f"the engine cannot be started ({failure.cause})")
                raise EngineStartError(failure.message)
            delay_s = self._policy.delay_after_failure(asyncio.get_running_loop().time())
            if delay_s is None:
                self._become(f"the engine failed too often and is given up (at last: {failure.cause})")
                raise EngineGivenUpError(f"the engine failed too often, at last: {failure.message}")
            logger.error("the engine failed: %s; starting it again in %g s", failure.message, delay_s)
            self._become(f"the engine failed ({failure.cause}) and is being started again")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._stopping.wait()
            self._count_restart(failure.reason)

    async def stop(self, grace_s: float) -> None:
        """End the process, by force if it takes longer than `grace_s`. `run` then returns."""
        self._stopping.set()
        if self._link is not None:
            await self._link.shut_down(grace_s)

    async def _run_process(self, config: EngineConfig) -> EngineFailure:
        """Run one process to its end, and return why it ended."""
        self._failure = None
        try:
            link = self._link = await EngineLink.start(config, self._command)
        except OSError as error:
            return EngineFailure.not_started(error)
        self._watchdog = Watchdog(self._step_timeout_s)
        if self._vocabulary is not None:
            link.send(self._vocabulary)
        if self._stopping.is_set():
            link.kill()
        watcher = asyncio.create_task(self._watch(link))
        try:
            async for frame in link.frames():
                self._watchdog.hear()
                self._take(link, frame)
        finally:
            self._link = None
            self._history, self._last_step_s = self._history.ended(), None
            self._lose("the engine process ended")
            watcher.cancel()
            exit_code = await link.close()
        return self._why_ended(exit_code)

    def _why_ended(self, exit_code: int) -> EngineFailure:
        return self._failure or EngineFailure.ended(exit_code)

    def _count_restart(self, reason: FailureReason) -> None:
        """A new mapping each time, as the metrics are read on a thread of their own."""
        self.restarts = {**self.restarts, reason: self.restarts.get(reason, 0) + 1}

    def _take(self, link: EngineLink, frame: Frame) -> None:
        match frame:
            case StepOutputs(outputs, stats, work):
                self._note(stats)
                self._watchdog.see_progress()
                self.steps.add(work)
                for output in outputs:
                    self._deliver(output)
            case Heartbeat(stats):
                self._note(stats)
            case Loading(stage, done, total):
                self._on_progress(stage, done, total)
            case Ready(info):
                self._info = info
                self._adapters.bring_back(link)
                self._loaded.set()
                if self._adapters.are_complete:
                    self._become(None)
            case AdapterLoaded() | AdapterRefused():
                if self._adapters.take(link, frame):
                    self._become(None)
            case Fatal():
                self._failure = EngineFailure.reported(frame)

    def _note(self, stats: EngineStats) -> None:
        if stats.num_steps != self.stats.num_steps:
            self._last_step_s = time.monotonic()
        self._history = self._history.with_stats(stats)

    def _deliver(self, output: RequestOutput) -> None:
        delivery = self._deliveries.get(output.request_id)
        if delivery is None:
            return  # it was aborted while this output was on its way
        if output.finish_reason is not None:
            del self._deliveries[output.request_id]
        delivery.put(output)

    def _lose(self, reason: str) -> None:
        """Be not ready, and end every sequence with an error."""
        self._become(f"{reason} and is being started again")
        self._adapters.lose(reason)
        deliveries, self._deliveries = self._deliveries, {}
        for delivery in deliveries.values():
            delivery.fail(EngineUnavailableError(reason))

    def _become(self, not_ready_reason: str | None) -> None:
        self._not_ready_reason = not_ready_reason
        self._on_change()

    async def _watch(self, link: EngineLink) -> None:
        """Kill a process that is silent, or whose step does not end."""
        while True:
            await self._sleep(TICK_S)
            is_loading = self._not_ready_reason is not None
            why = self._watchdog.tick(has_work=bool(self._deliveries), is_loading=is_loading)
            if why is not None:
                logger.error("the engine is stuck: %s", why)
                self._failure = EngineFailure.stuck(why)
                self._lose("the engine was stuck")
                link.kill()
                return
