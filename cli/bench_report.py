"""A benchmark's figures, beside the floor that the machine sets, as a table and as a JSON line."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cli.load import LoadResult
    from cli.machine import Machine
    from cli.workload import Workload
    from pagewire.v1 import models_pb2


@dataclass(frozen=True, slots=True)
class Floor:
    """What no engine on this machine could beat for this model and workload: bytes over bandwidth, operations
    over rate, and nothing else."""

    first_token_s: float
    """A prompt computed alone."""
    per_output_token_s: float
    """A step of all sequences at half of their output."""
    output_tokens_per_s: float
    """Steps of all sequences, and the prompts' computation."""


def floor_of(workload: Workload, model: models_pb2.Model, machine: Machine) -> Floor:
    """Return the floor. Prefixes are shared, so they are computed once and left out."""

    def step_s(num_tokens: float, num_kv_tokens: float) -> float:
        return machine.step_floor_s(
            model.step_weight_bytes + num_kv_tokens * model.kv_bytes_per_token,
            2 * num_tokens * model.num_step_weights,
        )

    context = workload.mean_prompt_len + workload.mean_output_len / 2
    num_new_tokens = sum(workload.prompt_lens) / 2
    decode_s = step_s(workload.concurrency, workload.concurrency * context)
    prefill_s = 2 * num_new_tokens * model.num_step_weights / machine.matmul_rate
    request_s = decode_s * workload.mean_output_len / workload.concurrency + prefill_s
    return Floor(step_s(num_new_tokens, 0), decode_s, workload.mean_output_len / request_s)


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def figures_of(result: LoadResult) -> dict[str, float]:
    """Times in milliseconds and tokens per second."""
    timings = result.timings
    columns = {
        "ttft": [timing.first_token_s for timing in timings],
        "tpot": [timing.per_output_token_s for timing in timings],
        "itl": [gap for timing in timings for gap in timing.gaps_s],
        "e2e": [timing.total_s for timing in timings],
    }
    num_output_tokens = sum(timing.num_output_tokens for timing in timings)
    num_prompt_tokens = sum(timing.num_prompt_tokens for timing in timings)
    figures = {
        f"{name}_{label}_ms": round(1e3 * percentile(values, share), 3)
        for name, values in columns.items()
        for label, share in (("p50", 0.5), ("p99", 0.99))
    }
    return figures | {
        "requests": len(timings),
        "wall_s": round(result.wall_s, 3),
        "output_tok_s": round(num_output_tokens / result.wall_s, 1),
        "total_tok_s": round((num_output_tokens + num_prompt_tokens) / result.wall_s, 1),
    }


def floor_figures(floor: Floor | None) -> dict[str, float]:
    """The floor under the names of the figures that it bounds."""
    if floor is None:
        return {}
    return {
        "ttft_p50_ms": round(1e3 * floor.first_token_s, 3),
        "tpot_p50_ms": round(1e3 * floor.per_output_token_s, 3),
        "output_tok_s": round(floor.output_tokens_per_s, 1),
    }


_ROWS = (
    ("time to first token, ms", "ttft_{}_ms"),
    ("time per output token, ms", "tpot_{}_ms"),
    ("between deltas, ms", "itl_{}_ms"),
    ("whole request, ms", "e2e_{}_ms"),
)


def table(name: str, figures: Mapping[str, float], floor: Mapping[str, float]) -> str:
    """Return the figures for a terminal. A floor is a lower bound of times and an upper one of rates."""
    lines = [f"{name:<28}{'p50':>12}{'p99':>12}{'floor':>12}"]
    for title, key in _ROWS:
        p50, p99 = (figures[key.format(label)] for label in ("p50", "p99"))
        lines.append(f"{title:<28}{p50:>12,.2f}{p99:>12,.2f}{_shown(floor.get(key.format('p50')))}")
    for title, key in (("output tokens/s", "output_tok_s"), ("all tokens/s", "total_tok_s")):
        lines.append(f"{title:<28}{figures[key]:>12,.1f}{'':>12}{_shown(floor.get(key))}")
    if "idle_between" in figures:
        lines.append(f"{'work of the host a step, µs':<28}{figures['host_us']:>12,.1f}")
        lines.append(f"{'GPU without a step, %':<28}{100 * figures['idle_between']:>12,.1f}")
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return f"{'-':>12}" if value is None else f"{value:>12,.2f}"


def json_line(facts: Mapping[str, object], figures: Mapping[str, float], floor: Mapping[str, float]) -> str:
    """Return one line for a file of results."""
    return json.dumps(dict(facts) | dict(figures) | {f"floor_{key}": value for key, value in floor.items()})
