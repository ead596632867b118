"""What this machine can do, measured: how fast memory is read, and matrices are multiplied."""

from __future__ import annotations

import platform
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

NUM_ROUNDS = 7
_GPU_BUFFER_BYTES = 1 << 30
_CPU_BUFFER_BYTES = 1 << 28
_GPU_MATRIX = 8192
_CPU_MATRIX = 2048


@dataclass(frozen=True, slots=True)
class Machine:
    """A device's measured speeds, and its floor under a step's time."""

    device: str
    name: str
    bandwidth: float
    """Bytes per second: copied (read and written) on a GPU, read on a CPU."""
    matmul_rate: float
    """Operations per second in `matmul_dtype`, a multiplication and an addition being two."""
    matmul_dtype: str

    def step_floor_s(self, num_bytes: float, num_operations: float) -> float:
        """The least seconds for moving so many bytes and doing so many operations at once."""
        return max(num_bytes / self.bandwidth, num_operations / self.matmul_rate)


def measure(device: str) -> Machine:
    """Measure "cpu" or "cuda". Takes a second or two; nothing else should run meanwhile."""
    if device == "cuda":
        return Machine(
            device,
            torch.cuda.get_device_name(),
            _gpu_copy_bandwidth(),
            _matmul_rate(_GPU_MATRIX, torch.bfloat16, torch.device("cuda")),
            "bfloat16",
        )
    return Machine(
        device,
        platform.processor() or platform.machine(),
        _cpu_read_bandwidth(),
        _matmul_rate(_CPU_MATRIX, torch.float32, torch.device("cpu")),
        "float32",
    )


def _gpu_copy_bandwidth() -> float:
    source = torch.ones(_GPU_BUFFER_BYTES // 2, dtype=torch.bfloat16, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / _median_s(lambda: target.copy_(source), torch.device("cuda"))


def _cpu_read_bandwidth() -> float:
    """Two vectors are read and one number is written."""
    vector = torch.ones(_CPU_BUFFER_BYTES // 4)
    other = torch.ones_like(vector)
    return 2 * vector.nbytes / _median_s(lambda: torch.dot(vector, other), torch.device("cpu"))


def _matmul_rate(size: int, dtype: torch.dtype, device: torch.device) -> float:
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _median_s(lambda: left @ right, device)


def _median_s(call: Callable[[], object], device: torch.device) -> float:
    """The median time of a call, after two that warm up."""
    times = []
    for _ in range(NUM_ROUNDS + 2):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])
