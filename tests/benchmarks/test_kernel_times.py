"""Kernels of a trace, added up."""

from __future__ import annotations

import pytest

from benchmarks.kernel_times import KernelTimes


def kernel(begin_us: float, length_us: float, category: str = "kernel") -> dict[str, object]:
    return {"ph": "X", "cat": category, "name": "k", "ts": begin_us, "dur": length_us}


def test_overlapping_kernels_count_once_and_gaps_do_not_count() -> None:
    times = KernelTimes.of(
        [
            {"ph": "M", "name": "process_name", "args": {}},
            kernel(130.0, 20.0),
            kernel(100.0, 10.0),
            kernel(105.0, 10.0),
            kernel(106.0, 2.0),
            kernel(0.0, 500.0, "cuda_runtime"),
            kernel(150.0, 40.0, "gpu_memcpy"),
        ]
    )
    assert times.num_kernels == 4
    assert times.busy_s == pytest.approx(35e-6)
    assert times.wall_s == pytest.approx(50e-6)


def test_a_trace_without_kernels_is_an_error() -> None:
    with pytest.raises(ValueError, match="CUPTI"):
        KernelTimes.of([kernel(0.0, 5.0, "cuda_runtime")])
