"""For which share of the time does a GPU run kernels? By CUPTI's record of each, from torch.profiler."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True)
class KernelTimes:
    """What ran on the device. Times are in seconds, by its clock."""

    num_kernels: int
    busy_s: float
    """At least one of them ran."""
    wall_s: float
    """From the start of the first to the end of the last."""

    @staticmethod
    def of(events: Iterable[Mapping[str, Any]]) -> KernelTimes:
        """Read the events of a Chrome trace. Kernels may overlap, and copies are none.

        Raises:
            ValueError: there is no kernel among them.
        """
        spans = sorted(
            (float(event["ts"]), float(event["ts"]) + float(event["dur"]))
            for event in events
            if event.get("cat") == "kernel"
        )
        if not spans:
            raise ValueError("the profiler recorded no kernel; it needs CUPTI")
        first_us = busy_until_us = spans[0][0]
        busy_us = 0.0
        for begin_us, end_us in spans:
            busy_us += max(0.0, end_us - max(begin_us, busy_until_us))
            busy_until_us = max(busy_until_us, end_us)
        return KernelTimes(len(spans), 1e-6 * busy_us, 1e-6 * (busy_until_us - first_us))


class KernelRecorder:
    """Records the kernels that are launched between `start` and `stop`. The host is slower meanwhile."""

    def __init__(self) -> None:
        # CUPTI that is torn down and begun anew has been at odds with CUDA graphs.
        os.environ.setdefault("TEARDOWN_CUPTI", "0")
        self._profiler = profile(activities=[ProfilerActivity.CUDA])

    def start(self) -> None:
        """Wait until the device is idle, then record."""
        torch.cuda.synchronize()
        self._profiler.start()

    def stop(self) -> KernelTimes:
        """Wait until the device is idle, and return what it ran."""
        torch.cuda.synchronize()
        self._profiler.stop()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            self._profiler.export_chrome_trace(str(path))
            return KernelTimes.of(json.loads(path.read_text(encoding="utf-8"))["traceEvents"])
