"""How long a step takes on a device whose clock the test turns."""

from __future__ import annotations

import pytest
import torch

from engine.device_span import DeviceSpan


class FakeDevice:
    """Passes events when it is told to, as a GPU does that is behind its host."""

    now_ms = 100.0

    def __init__(self) -> None:
        self._queue: list[FakeEvent] = []

    def event(self, *, enable_timing: bool) -> FakeEvent:
        assert enable_timing
        return FakeEvent(self)

    def push(self, event: FakeEvent) -> None:
        self._queue.append(event)

    def pass_next(self, after_ms: float) -> None:
        self.now_ms += after_ms
        self._queue.pop(0).passed_ms = self.now_ms


class FakeEvent:
    def __init__(self, device: FakeDevice) -> None:
        self._device = device
        self.passed_ms: float | None = None

    def record(self) -> None:
        self._device.push(self)

    def synchronize(self) -> None:
        assert self.passed_ms is not None, "the host would wait here"

    def elapsed_time(self, end: FakeEvent) -> float:
        assert self.passed_ms is not None
        assert end.passed_ms is not None
        return end.passed_ms - self.passed_ms


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    device = FakeDevice()
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    return device


def test_a_cpu_has_none() -> None:
    assert DeviceSpan.begin(torch.device("cpu")) is None


def test_two_steps_in_flight_share_no_time(device: FakeDevice) -> None:
    spans = []
    for _ in range(2):
        span = DeviceSpan.begin(torch.device("cuda"))
        assert span is not None
        span.end()
        spans.append(span)
    device.pass_next(5.0)  # idle before
    device.pass_next(2.0)
    device.pass_next(0.25)  # idle between
    device.pass_next(3.0)
    assert [span.wait() for span in spans] == [pytest.approx(0.002), pytest.approx(0.003)]
