"""Work and waiting of the engine's loop, by a clock that the test turns."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from engine.step_clock import StepClock

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def turn(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now_s = 100.0

    def turn(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    return turn


def test_waiting_is_no_work(turn: Callable[[float], None]) -> None:
    clock = StepClock()
    turn(50.0)  # for commands
    assert clock.resume() == 150.0
    turn(2.0)
    clock.pause()
    turn(7.0)  # for the device
    assert clock.since_pause() == 7.0
    clock.resume()
    turn(1.0)
    assert clock.take() == 3.0
    turn(0.5)  # sending belongs to the next step
    clock.pause()
    turn(50.0)
    clock.resume()
    turn(4.0)
    assert clock.take() == 4.5
