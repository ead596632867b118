"""What the engine and the queue are doing, read at the moment that Prometheus asks.

It is asked on a thread of its own, so it reads immutable values, and copies of what may change.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from server.engine_failure import FailureReason
from server.metrics import ENGINE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client import Metric

    from engine.messages import EngineStats
    from server.admission import Admission
    from server.engine import Engine
    from server.grammar_checker import GrammarChecker
    from server.readiness import Readiness
    from server.served_model import ModelSlot
    from watch.loop_lag import LoopLag

_MODEL = ("model_name", "engine")
_COUNTERS = {
    "vllm:prompt_tokens": ("num_prompt_tokens", "Prompt tokens taken in."),
    "vllm:prompt_tokens_cached": ("num_prefix_hit_tokens", "Those of them that the prefix cache held."),
    "vllm:generation_tokens": ("num_generated_tokens", "Tokens generated."),
    "vllm:num_preemptions": (
        "num_preemptions",
        "Times a running sequence gave its blocks to another and was computed again.",
    ),
    "vllm:prefix_cache_queries": ("num_prefix_query_tokens", "Tokens looked up in the prefix cache."),
    "vllm:prefix_cache_hits": ("num_prefix_hit_tokens", "Tokens found there."),
    "pagewire:engine_steps": ("num_steps", "Steps that engines have run."),
}


class EngineCollector(Collector):
    """Samples the engine, the queue and what the server computes beside them."""

    def __init__(
        self,
        engine: Engine,
        models: ModelSlot,
        admission: Admission,
        readiness: Readiness,
        grammars: GrammarChecker,
        lag: LoopLag,
        max_loras: int,
    ) -> None:
        """`max_loras` adapters may take part in one step; 0 where the server takes none."""
        self._engine = engine
        self._models = models
        self._admission = admission
        self._readiness = readiness
        self._grammars = grammars
        self._lag = lag
        self._max_loras = max_loras

    def describe(self) -> Iterator[Metric]:
        """Nothing is sampled when the collector is registered."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield the families. Those of the model come once it is loaded."""
        yield from self._process()
        if self._models.is_loaded:
            model = (self._models.get().name, ENGINE)
            totals = self._engine.totals
            yield from _counters(totals, model)
            yield from self._steps(model)
            yield from self._gauges(totals, model)
            if self._max_loras:
                yield self._adapters(model[0])

    def _process(self) -> Iterator[Metric]:
        engine = self._engine
        yield InfoMetricFamily("pagewire:build", "The version.", {"version": version("pagewire")})
        is_ready = self._readiness.not_ready_reason is None
        yield GaugeMetricFamily("pagewire:ready", "Whether requests are accepted.", float(is_ready))
        what = "Times the engine was started again, by what it had failed by."
        restarts = CounterMetricFamily("pagewire:engine_restarts", what, labels=("reason",))
        for reason in FailureReason:
            restarts.add_metric((reason,), engine.restarts.get(reason, 0))
        yield restarts
        num_running, num_waiting, num_stalled = self._admission.census()
        yield GaugeMetricFamily(
            "pagewire:live_requests", "Requests that are being served.", num_running + num_waiting
        )
        what = "Streams whose readers have not read for a second."
        yield GaugeMetricFamily("pagewire:stream_write_stalled", what, num_stalled)
        what = "The worst delay of the server's event loop in the last 10 to 20 seconds."
        yield GaugeMetricFamily("pagewire:event_loop_lag_seconds", what, self._lag.seconds)
        yield GaugeMetricFamily(
            "pagewire:live_grammar_compilations", "Grammars being compiled.", self._grammars.num_compiling
        )
        what = "What it took to compile a grammar."
        yield self._grammars.seconds.family("pagewire:grammar_compile_seconds", what, (), ())
        age_s = engine.last_step_age_s
        if age_s is not None:
            what = "Time since the engine's last step ended."
            yield GaugeMetricFamily("pagewire:engine_last_step_age_seconds", what, age_s)

    def _steps(self, model: Sequence[str]) -> Iterator[Metric]:
        steps = self._engine.steps
        what = "Tokens that a step computed, of prompts and outputs."
        yield steps.tokens.family("vllm:iteration_tokens_total", what, _MODEL, model)
        what = "From a token of a sequence to its next."
        yield steps.token_gaps.family("vllm:inter_token_latency_seconds", what, _MODEL, model)
        seconds = CounterMetricFamily(
            "pagewire:engine_step_seconds",
            "What the engine's loop did: host is work between steps, device is waiting for a step's end.",
            labels=(*_MODEL, "part"),
        )
        seconds.add_metric((*model, "host"), steps.host_s)
        seconds.add_metric((*model, "device"), steps.device_s)
        yield seconds
        if steps.busy_s is not None:
            busy = CounterMetricFamily(
                "pagewire:engine_device_busy_seconds",
                "What a GPU was at steps, by its own clock. The rest of the time it had none to compute.",
                labels=_MODEL,
            )
            busy.add_metric(model, steps.busy_s)
            yield busy

    def _gauges(self, stats: EngineStats, model: Sequence[str]) -> Iterator[Metric]:
        num_blocks = stats.num_free_blocks + stats.num_owned_blocks + stats.num_cached_blocks
        # The engine hears of a request a moment after the server has taken it in, and is done with it while
        # its last words are still on their way: an open call runs or waits, whatever the engine says.
        num_running, num_waiting, _ = self._admission.census()
        num_running, num_waiting = max(stats.num_running, num_running), max(stats.num_waiting, num_waiting)
        values = {
            "vllm:num_requests_running": ("Sequences that hold cache blocks.", num_running),
            "vllm:num_requests_waiting": ("Sequences that wait for them.", num_waiting),
            "vllm:kv_cache_usage_perc": (
                "Share of cache blocks that running sequences own, from 0 to 1.",
                stats.num_owned_blocks / num_blocks if num_blocks else 0.0,
            ),
        }
        for name, (what, value) in values.items():
            family = GaugeMetricFamily(name, what, labels=_MODEL)
            family.add_metric(model, value)
            yield family
        blocks = GaugeMetricFamily(
            "pagewire:kv_blocks", "Cache blocks; the states add up to the pool.", labels=(*_MODEL, "state")
        )
        for state in ("free", "owned", "cached"):
            blocks.add_metric((*model, state), getattr(stats, f"num_{state}_blocks"))
        yield blocks
        info = self._engine.info
        config = GaugeMetricFamily(
            "vllm:cache_config_info",
            "How the cache is laid out.",
            labels=(*_MODEL, "block_size", "num_gpu_blocks"),
        )
        config.add_metric((*model, str(info.block_size), str(info.num_blocks)), 1.0)
        yield config

    def _adapters(self, model: str) -> Metric:
        running, waiting = self._admission.adapters()
        family = GaugeMetricFamily(
            "vllm:lora_requests_info",
            "When this was so, with the adapters of running and of waiting requests.",
            labels=("model_name", "max_lora", "running_lora_adapters", "waiting_lora_adapters"),
        )
        labels = (model, str(self._max_loras), ",".join(running), ",".join(waiting))
        family.add_metric(labels, time.time())
        return family


def _counters(totals: EngineStats, model: Sequence[str]) -> Iterator[Metric]:
    for name, (field, what) in _COUNTERS.items():
        family = CounterMetricFamily(name, what, labels=_MODEL)
        family.add_metric(model, getattr(totals, field))
        yield family
    ends = CounterMetricFamily(
        "pagewire:sequences", "Sequences that ended, by how.", labels=(*_MODEL, "outcome")
    )
    for outcome in ("finished", "aborted", "failed"):
        ends.add_metric((*model, outcome), getattr(totals, f"num_{outcome}"))
    yield ends
