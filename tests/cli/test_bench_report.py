"""Figures, floors and the table."""

from __future__ import annotations

import json
import math

import pytest

from cli.bench_report import figures_of, floor_figures, floor_of, json_line, percentile, table
from cli.doors import Timing
from cli.load import LoadResult
from cli.machine import Machine
from cli.workload import Workload
from pagewire.v1 import models_pb2

# 100 bytes of weights at 1,000 bytes/s; 50 weights at 10,000 operations/s.
MODEL = models_pb2.Model(num_step_weights=50, step_weight_bytes=100, kv_bytes_per_token=2)
MACHINE = Machine("cpu", "toy", bandwidth=1000.0, matmul_rate=10_000.0, matmul_dtype="float32")


def test_percentile() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([5.0], 0.99) == 5.0
    assert math.isnan(percentile([], 0.5))


def test_floor() -> None:
    workload = Workload(num_requests=4, concurrency=2, prompt_lens=(10, 10), output_lens=(20, 20))
    floor = floor_of(workload, MODEL, MACHINE)
    assert floor.first_token_s == pytest.approx(0.1)  # 1,000 operations, or 100 bytes
    step_s = (100 + 2 * 20 * 2) / 1000  # weights, and two sequences at half of their output
    assert floor.per_output_token_s == pytest.approx(step_s)
    assert floor.output_tokens_per_s == pytest.approx(20 / (20 * step_s / 2 + 0.1))


def test_a_floor_of_many_sequences_is_arithmetic() -> None:
    workload = Workload(num_requests=999, concurrency=999, prompt_lens=(1, 1), output_lens=(2, 2))
    model = models_pb2.Model(num_step_weights=50, step_weight_bytes=100)
    assert floor_of(workload, model, MACHINE).per_output_token_s == pytest.approx(999 * 100 / 10_000)


def test_figures_and_table() -> None:
    timings = [Timing(10, 5, 0.1 * k, 0.1 * k + 0.4, [0.1] * 4) for k in (1, 2, 3)]
    figures = figures_of(LoadResult(Workload(), timings, wall_s=2.0))
    assert figures["ttft_p50_ms"] == 200.0
    assert figures["tpot_p99_ms"] == 100.0
    assert figures["output_tok_s"] == 7.5
    assert figures["total_tok_s"] == 22.5
    shown = table("mine", figures, {"ttft_p50_ms": 50.0})
    assert "time to first token, ms" in shown
    assert shown.splitlines()[1].split()[-3:] == ["200.00", "300.00", "50.00"]
    assert shown.splitlines()[2].split()[-1] == "-"
    line = json.loads(json_line({"workload": "mine"}, figures, {"ttft_p50_ms": 50.0}))
    assert line["workload"] == "mine"
    assert line["floor_ttft_p50_ms"] == 50.0


def test_what_steps_cost_is_shown_where_it_is_known() -> None:
    figures = figures_of(LoadResult(Workload(), [Timing(10, 5, 0.1, 0.5, [0.1] * 4)], wall_s=2.0))
    assert "GPU" not in table("mine", figures, {})
    shown = table("mine", figures | {"host_us": 91.25, "wait_us": 900.0, "idle_between": 0.034}, {})
    assert [line.split()[-1] for line in shown.splitlines()[-2:]] == ["91.2", "3.4"]


def test_no_floor() -> None:
    assert floor_figures(None) == {}
