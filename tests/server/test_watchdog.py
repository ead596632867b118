"""How long an engine may be silent, and how long a step may take, in ticks of a clock that the test turns."""

from __future__ import annotations

import pytest

from engine.core import HEARTBEAT_INTERVAL_S
from server.watchdog import LOADING_SILENCE_TIMEOUT_S, TICK_S, Watchdog

pytestmark = pytest.mark.check("R02")


def ticks(seconds: float) -> int:
    return round(seconds / TICK_S)


def first_verdict(
    watchdog: Watchdog, num_ticks: int, *, has_work: bool = True, is_loading: bool = False
) -> tuple[int, str] | None:
    """After how many ticks the engine is stuck, and why."""
    for count in range(1, num_ticks + 1):
        why = watchdog.tick(has_work=has_work, is_loading=is_loading)
        if why is not None:
            return count, why
    return None


@pytest.mark.parametrize("has_work", [True, False])
def test_silence_is_seen_within_five_seconds(has_work: bool) -> None:
    verdict = first_verdict(Watchdog(), ticks(5), has_work=has_work)
    assert verdict is not None
    assert verdict[1] == "no heartbeat"


def test_a_pause_of_two_seconds_is_harmless() -> None:
    watchdog = Watchdog()
    for _ in range(10):  # the frame that a pause delays was due up to a heartbeat after the last one
        assert first_verdict(watchdog, ticks(2 + HEARTBEAT_INTERVAL_S)) is None
        watchdog.hear()


def test_who_loads_may_be_silent_for_longer_but_not_for_ever() -> None:
    watchdog = Watchdog()
    for _ in range(10):
        assert (
            first_verdict(watchdog, ticks(LOADING_SILENCE_TIMEOUT_S), has_work=False, is_loading=True) is None
        )
        watchdog.hear()
    num_ticks = ticks(LOADING_SILENCE_TIMEOUT_S) + 1
    assert first_verdict(watchdog, num_ticks, has_work=False, is_loading=True) == (num_ticks, "no heartbeat")


def test_our_own_pause_is_one_tick() -> None:
    watchdog = Watchdog()
    assert watchdog.tick(has_work=True) is None  # however long it took to come here
    watchdog.hear()


def test_a_step_may_take_its_time_but_not_for_ever() -> None:
    watchdog = Watchdog(step_timeout_s=10)
    for second in range(10):
        assert first_verdict(watchdog, ticks(1)) is None, second
        watchdog.hear()
    assert first_verdict(watchdog, 1) == (1, "a step does not end")


def test_only_time_without_progress_counts() -> None:
    watchdog = Watchdog(step_timeout_s=2)
    for _ in range(5):
        assert first_verdict(watchdog, ticks(2)) is None
        watchdog.hear()
        watchdog.see_progress()
    assert first_verdict(watchdog, ticks(3), has_work=False) is None
