"""The engine's loop: take in commands, plan and launch a step, send what the last one brought.

A runner may allow a step to be launched while another is in flight. Then its device never waits for the host:
tokens are read, sent and planned upon while the next step computes.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Protocol

import msgspec

from engine.errors import AdapterError, ChannelClosedError, RequestTooLargeError
from engine.messages import (
    Abort,
    AdapterLoaded,
    AdapterRefused,
    FinishReason,
    Heartbeat,
    LoadAdapter,
    Ready,
    RequestOutput,
    ResetPrefixCache,
    Shutdown,
    StepOutputs,
    StepWork,
    Submit,
    UnloadAdapter,
    Vocabulary,
)
from engine.step_clock import StepClock

if TYPE_CHECKING:
    from engine.channel import EngineChannel
    from engine.encoder_scheduler import EncoderScheduler
    from engine.grammars import Grammars
    from engine.messages import Command, EngineInfo, EngineRequest, EngineStats
    from engine.scheduler import Scheduler
    from engine.step import StepPlan, StepResult
    from engine.token_matcher import TokenMatcher

HEARTBEAT_INTERVAL_S = 1.0

logger = logging.getLogger("engine")


class PendingStep(Protocol):
    """A step in flight."""

    def collect(self) -> StepResult:
        """Wait for the result. Called once, in the order of launches."""


class Runner(Protocol):
    """Computes steps. Implemented by `ModelRunner`, and by a fake in tests."""

    @property
    def info(self) -> EngineInfo:
        """What was loaded."""

    @property
    def max_num_seqs(self) -> int:
        """Number of rows."""

    @property
    def max_num_batched_tokens(self) -> int:
        """Most tokens in a step."""

    @property
    def max_steps_in_flight(self) -> int:
        """Steps that may be launched and not collected, at least 1."""

    def launch(self, plan: StepPlan) -> PendingStep:
        """Begin to compute a step, after those that were launched before."""

    def load_adapter(self, adapter: int, path: str) -> int:
        """Read a LoRA adapter into memory under this id, and return its rank. Any thread may call it.

        Raises:
            AdapterError: it cannot be used with this model.
        """

    def unload_adapter(self, adapter: int) -> None:
        """Forget an adapter."""


class EngineCore:
    """Joins scheduler, runner and channel.

    Everything happens on the thread that calls `run`, but that adapters are read beside it.
    """

    def __init__(
        self,
        runner: Runner,
        scheduler: Scheduler | EncoderScheduler,
        channel: EngineChannel,
        grammars: Grammars,
    ) -> None:
        self._runner = runner
        self._scheduler = scheduler
        self._channel = channel
        self._grammars = grammars
        self._is_idle = True
        self._in_flight: deque[tuple[StepPlan, PendingStep, float]] = deque()  # with when it began
        self._clock = StepClock()
        self._num_refused, self._num_withdrawn = 0, 0  # sequences that the scheduler has never had
        self._stats = self._count()
        self.num_turns = 0
        """Of the loop. Any thread may ask."""

    @property
    def stats(self) -> EngineStats:
        """The state after the last step. An immutable value, so any thread may ask."""
        return self._stats

    def run(self) -> None:
        """Say that the engine is ready, then serve until the server sends Shutdown.

        Raises:
            ChannelClosedError: the server is gone.
        """
        self._channel.send(Ready(self._runner.info))
        while True:
            commands = self._channel.receive(HEARTBEAT_INTERVAL_S if self._is_idle else 0.0)
            if any(isinstance(command, Shutdown) for command in commands):
                return
            self._step(commands)
            self.num_turns += 1

    def _step(self, commands: list[Command]) -> None:
        """Follow the commands, keep the runner busy, and send one frame for what came of it."""
        began_s = self._clock.resume()
        replies = (self._follow(command) for command in commands)
        outputs = [reply for reply in replies if reply is not None]
        outputs += self._follow_grammars()
        plan = self._scheduler.schedule()
        if plan is not None:
            self._in_flight.append((plan, self._runner.launch(plan), began_s))
        self._is_idle = not self._in_flight
        work = None
        if self._in_flight and (plan is None or len(self._in_flight) == self._runner.max_steps_in_flight):
            work = self._collect(outputs)
        elif self._in_flight and not outputs:
            self._clock.pause()
            return  # a step was launched, and the next may be at once
        self._stats = self._count()
        is_silent = self._is_idle and not outputs
        self._channel.send(Heartbeat(self._stats) if is_silent else StepOutputs(outputs, self._stats, work))
        self._clock.pause()

    def _collect(self, outputs: list[RequestOutput]) -> StepWork:
        """Wait for the earliest step in flight, and add what it brought. Return what it took."""
        plan, pending, began_s = self._in_flight.popleft()
        self._clock.pause()
        result = pending.collect()
        device_s = self._clock.since_pause()
        self._clock.resume()
        outputs += (_stamped(output, began_s) for output in self._scheduler.update(plan, result))
        self._grammars.follow()
        num_tokens = sum(chunk.num_tokens for chunk in plan.chunks)
        return StepWork(num_tokens, self._clock.take(), device_s, result.busy_s)

    def _follow_grammars(self) -> list[RequestOutput]:
        """Queue the sequences whose grammars were compiled, and end those whose grammars have ended."""
        replies = (
            self._add(request, matcher) if matcher is not None else self._refuse(request, "bad_grammar")
            for request, matcher in self._grammars.opened()
        )
        return [reply for reply in replies if reply is not None] + self._scheduler.end_early()

    def _follow(self, command: Command) -> RequestOutput | None:
        match command:
            case Submit(request):
                if not request.grammar:
                    return self._add(request, None)
                self._grammars.open(request)
            case Abort(request_id):
                if self._grammars.close(request_id):
                    self._num_withdrawn += 1
                    return RequestOutput(request_id, finish_reason=FinishReason.ABORTED)
                return self._scheduler.abort(request_id)
            case Vocabulary():
                self._grammars.learn(command)
            case ResetPrefixCache():
                self._scheduler.reset_prefix_cache()
            case LoadAdapter():
                threading.Thread(target=self._load_adapter, args=(command,), daemon=True).start()
            case UnloadAdapter(adapter):
                self._runner.unload_adapter(adapter)
        return None

    def _load_adapter(self, command: LoadAdapter) -> None:
        """Answer a LoadAdapter, while steps go on."""
        reply: AdapterLoaded | AdapterRefused
        try:
            reply = AdapterLoaded(command.adapter, self._runner.load_adapter(command.adapter, command.path))
        except AdapterError as error:
            reply = AdapterRefused(command.adapter, str(error))
        except Exception as error:  # the border of the thread: the server waits for an answer
            logger.error("the adapter at %s cannot be read", command.path, exc_info=error)
            reply = AdapterRefused(command.adapter, f"reading it failed: {type(error).__name__}")
        with contextlib.suppress(ChannelClosedError):
            self._channel.send(reply)

    def _add(self, request: EngineRequest, matcher: TokenMatcher | None) -> RequestOutput | None:
        try:
            self._scheduler.add(request, matcher)
        except RequestTooLargeError:
            return self._refuse(request, "request_too_large")
        return None

    def _refuse(self, request: EngineRequest, error: str) -> RequestOutput:
        self._num_refused += 1
        return RequestOutput(request.request_id, finish_reason=FinishReason.FAILED, error=error)

    def _count(self) -> EngineStats:
        stats = self._scheduler.stats()
        return msgspec.structs.replace(
            stats,
            num_failed=stats.num_failed + self._num_refused,
            num_aborted=stats.num_aborted + self._num_withdrawn,
        )


def _stamped(output: RequestOutput, began_s: float) -> RequestOutput:
    """Say with a sequence's first output when its first step began."""
    if output.num_cached_tokens is None:
        return output
    return msgspec.structs.replace(output, began_s=began_s)
