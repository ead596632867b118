"""What `pagewire top` shows: figures of one moment, and rates since the one before."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pagewire.v1 import admin_pb2

_BAR_WIDTH = 40


@dataclass(frozen=True)
class Figures:
    """A server at one moment. Rates are None where there is no earlier moment of the same engine."""

    ready: bool
    not_ready_reason: str
    uptime_s: float
    running: int
    waiting: int
    free_blocks: int
    owned_blocks: int
    cached_blocks: int
    block_size: int
    prefix_hit_rate: float | None
    """Share of looked-up prompt tokens that were found, since the engine started; None before any."""
    prompt_tokens_per_s: float | None
    generated_tokens_per_s: float | None
    steps_per_s: float | None
    last_step_age_s: float | None
    device_idle: float | None
    """Share of the time in which the GPU had no step to compute; None on a CPU."""
    preemptions: int
    finished: int
    aborted: int
    failed: int
    engine_restarts: int

    def as_dict(self) -> dict[str, object]:
        """The figures by name."""
        return asdict(self)


class Watch:
    """Turns answers of GetStats, one after another, into figures."""

    def __init__(self) -> None:
        self._previous: tuple[float, admin_pb2.GetStatsResponse] | None = None

    def take(self, response: admin_pb2.GetStatsResponse, now_s: float) -> Figures:
        """Return the figures of an answer that came at `now_s`, on a clock that only goes forward."""
        engine = response.engine
        looked_up = engine.num_prefix_query_tokens
        figures = Figures(
            ready=response.ready,
            not_ready_reason=response.not_ready_reason,
            uptime_s=max(0.0, time.time() - response.started.ToMilliseconds() / 1000),
            running=engine.num_running,
            waiting=engine.num_waiting,
            free_blocks=engine.num_free_blocks,
            owned_blocks=engine.num_owned_blocks,
            cached_blocks=engine.num_cached_blocks,
            block_size=engine.block_size,
            prefix_hit_rate=engine.num_prefix_hit_tokens / looked_up if looked_up else None,
            prompt_tokens_per_s=self._rate("num_prompt_tokens", response, now_s),
            generated_tokens_per_s=self._rate("num_generated_tokens", response, now_s),
            steps_per_s=self._rate("num_steps", response, now_s),
            last_step_age_s=engine.last_step_age.ToMilliseconds() / 1000
            if engine.HasField("last_step_age")
            else None,
            device_idle=self._device_idle(response, now_s),
            preemptions=engine.num_preemptions,
            finished=engine.num_finished,
            aborted=engine.num_aborted,
            failed=engine.num_failed,
            engine_restarts=response.num_engine_restarts,
        )
        self._previous = now_s, response
        return figures

    def _rate(self, counter: str, response: admin_pb2.GetStatsResponse, now_s: float) -> float | None:
        if self._previous is None:
            return None
        then_s, earlier = self._previous
        grown: int = getattr(response.engine, counter) - getattr(earlier.engine, counter)
        return grown / (now_s - then_s) if grown >= 0 and now_s > then_s else None

    def _device_idle(self, response: admin_pb2.GetStatsResponse, now_s: float) -> float | None:
        if self._previous is None or not response.step_times.HasField("device_busy"):
            return None
        then_s, earlier = self._previous
        busy, busy_before = response.step_times.device_busy, earlier.step_times.device_busy
        busy_s = (busy.ToNanoseconds() - busy_before.ToNanoseconds()) / 1e9
        return max(0.0, 1 - busy_s / (now_s - then_s)) if busy_s >= 0 and now_s > then_s else None


def frame(figures: Figures, target: str) -> RenderableType:
    """Draw figures for a terminal."""
    state = (
        Text("ready", style="bold green")
        if figures.ready
        else Text(f"not ready: {figures.not_ready_reason}", style="bold red")
    )
    title = Text.assemble(("pagewire ", "bold"), f"{target}  ", state, f"  up {_duration(figures.uptime_s)}")
    table = Table.grid(padding=(0, 2))
    for row in _rows(figures):
        table.add_row(*row)
    return Group(title, "", table)


def _rows(figures: Figures) -> list[tuple[RenderableType, ...]]:
    num_blocks = figures.free_blocks + figures.owned_blocks + figures.cached_blocks
    blocks = f"{figures.owned_blocks} owned, {figures.cached_blocks} cached, {figures.free_blocks} free"
    rate = figures.prefix_hit_rate
    ends = f"{figures.finished} finished, {figures.aborted} aborted, {figures.failed} failed"
    idle = figures.device_idle
    bar = ProgressBar(total=max(1, num_blocks), completed=figures.owned_blocks, width=_BAR_WIDTH)
    return [
        ("requests", f"{figures.running} running, {figures.waiting} waiting"),
        ("tokens/s", f"{_rate(figures.generated_tokens_per_s)} generated, "
         f"{_rate(figures.prompt_tokens_per_s)} of prompts"),
        ("KV blocks", f"{blocks}; {figures.block_size} tokens each"),
        ("", bar),
        ("prefix hits", "-" if rate is None else f"{rate:.0%} of prompt tokens"),
        ("steps/s", f"{_rate(figures.steps_per_s)}, last {_age(figures.last_step_age_s)}"),
        ("GPU", "-" if idle is None else f"{idle:.0%} of the time without a step"),
        ("sequences", f"{ends}, {figures.preemptions} preempted"),
        ("engine", f"{figures.engine_restarts} restarts"),
    ]  # fmt: skip


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1f}"


def _age(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s ago"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
