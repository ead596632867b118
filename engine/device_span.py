"""How long a GPU is at a step, by its own clock."""

from __future__ import annotations

import torch


class DeviceSpan:
    """The time from one place in the device's queue to a later one.

    The device notes when it passes them, so nothing waits. What lies between the spans of two steps that
    follow one another is time in which the device had no step to compute. Where the host launches a step
    more slowly than the device computes it, there are gaps inside a span too: these count as the step's.
    """

    def __init__(self) -> None:
        """Begin behind what was launched so far."""
        self._begin = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._begin.record()

    @staticmethod
    def begin(device: torch.device) -> DeviceSpan | None:
        """Begin one; None on a CPU, where the host is the device."""
        return None if device.type == "cpu" else DeviceSpan()

    def end(self) -> None:
        """End behind what was launched so far."""
        self._end.record()

    def wait(self) -> float:
        """Wait until the device has passed the end, and return the seconds that it took."""
        self._end.synchronize()
        milliseconds: float = self._begin.elapsed_time(self._end)
        return 1e-3 * milliseconds
