"""Which steps the benchmark measures and records, on the fake runner."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
from fake_runner import FakeRunner

from benchmarks.kernel_times import KernelRecorder, KernelTimes
from benchmarks.step_speed import Bench, Workload, idle_figures, middle
from cli.engine_timing import make_scheduler

if TYPE_CHECKING:
    from fake_runner import FakePendingStep

    from engine.step import StepPlan


class WatchedRunner(FakeRunner):
    """Remembers the tokens of each step that it launched."""

    def __init__(self, max_steps_in_flight: int) -> None:
        super().__init__(
            num_blocks=256,
            max_num_seqs=32,
            max_num_batched_tokens=64,
            max_steps_in_flight=max_steps_in_flight,
        )
        self.launched: list[int] = []

    def launch(self, plan: StepPlan) -> FakePendingStep:
        self.launched.append(sum(chunk.num_tokens for chunk in plan.chunks))
        return super().launch(plan)


class FakeRecorder:
    """Notes how many steps had been launched when it began and when it ended."""

    def __init__(self, runner: WatchedRunner) -> None:
        self._runner = runner
        self.spans: list[tuple[int, int]] = []
        self._begun = 0

    def start(self) -> None:
        self._begun = len(self._runner.launched)

    def stop(self) -> KernelTimes:
        self.spans.append((self._begun, len(self._runner.launched)))
        return KernelTimes(1, 1.0, 1.0)


@pytest.fixture(params=[1, 2], ids=["one-step-in-flight", "two-steps-in-flight"])
def runner(request: pytest.FixtureRequest) -> WatchedRunner:
    return WatchedRunner(request.param)


def test_steps_in_which_all_decode(runner: WatchedRunner) -> None:
    figures, steady = Bench(runner, make_scheduler(runner)).measure(Workload(4, prompt=20, output=16))
    assert {step.num_tokens for step in steady} == {4}
    assert len(steady) >= 12
    assert figures["step_tokens"] == 4
    assert figures["host_us"] > 0
    assert "idle_between" not in figures  # there is no device beside the host


def test_prompts_arrive_while_all_decode(runner: WatchedRunner) -> None:
    workload = Workload(4, prompt=20, output=24, num_arrivals=2, arrival_len=30)
    figures, steady = Bench(runner, make_scheduler(runner)).measure(workload)
    assert len(steady) >= 16
    assert all(step.num_seqs > 4 for step in steady)
    assert figures["step_tokens"] >= 60
    assert {step.num_tokens for step in steady[1:-1]} == {64}, "four that decode and two prompts"


def test_kernels_are_recorded_of_as_many_steps_as_said(runner: WatchedRunner) -> None:
    workload = Workload(4, prompt=20, output=24)
    bench = Bench(runner, make_scheduler(runner))
    recorder = FakeRecorder(runner)
    bench.record(workload, range(5, 12), cast("KernelRecorder", recorder))
    ((begun, ended),) = recorder.spans
    assert runner.launched[begun:ended] == [4] * 7


def test_too_short_an_output_is_an_error(runner: WatchedRunner) -> None:
    with pytest.raises(ValueError, match="--output: expected more than 1"):
        Bench(runner, make_scheduler(runner)).measure(Workload(4, prompt=20, output=1))


def test_the_middle() -> None:
    assert middle(110, 50) == range(30, 80)
    assert middle(20, 50) == range(2, 18)


def test_idle_is_what_kernels_leave_of_the_time_without_the_profiler() -> None:
    figures = idle_figures(KernelTimes(600, busy_s=0.008, wall_s=0.016), mean_s=0.0010, num_steps=10)
    assert figures["kernels"] == 60
    assert figures["idle"] == pytest.approx(0.2)
    assert figures["profiled_idle"] == pytest.approx(0.5)
    assert figures["profiled_step_ms"] == pytest.approx(1.6)
