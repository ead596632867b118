"""The engine's loop over a real channel, with the fake runner."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
import pytest
from fake_runner import FakePendingStep, FakeRunner, solo_output
from running_core import RunningCore

import engine.core
from engine.errors import ChannelClosedError
from engine.messages import (
    Abort,
    AdapterRefused,
    EngineRequest,
    FinishReason,
    Heartbeat,
    LoadAdapter,
    ResetPrefixCache,
    SamplingParams,
    Shutdown,
    StepOutputs,
    Submit,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from engine.step import StepPlan

MAX_MODEL_LEN = 128


@pytest.fixture
def start() -> Iterator[Callable[[FakeRunner], RunningCore]]:
    cores: list[RunningCore] = []

    def start(runner: FakeRunner) -> RunningCore:
        cores.append(RunningCore(runner))
        return cores[-1]

    yield start
    for core in cores:
        with core.server:
            pass
        core.wait_ended()


@pytest.fixture(params=[1, 2], ids=["one-step-in-flight", "two-steps-in-flight"])
def core(
    request: pytest.FixtureRequest,
    start: Callable[[FakeRunner], RunningCore],
    monkeypatch: pytest.MonkeyPatch,
) -> RunningCore:
    monkeypatch.setattr(engine.core, "HEARTBEAT_INTERVAL_S", 0.01)
    core = start(FakeRunner(max_model_len=MAX_MODEL_LEN, max_steps_in_flight=request.param))
    core.server.wait_ready()
    return core


def make_request(name: str, num_prompt_tokens: int = 6, max_tokens: int = 8) -> EngineRequest:
    prompt = [(len(name) * 7 + position) % 29 + 2 for position in range(num_prompt_tokens)]
    return EngineRequest(name, prompt, SamplingParams(max_tokens=max_tokens))


def test_every_sequence_gets_its_own_tokens(core: RunningCore) -> None:
    requests = [make_request("r" * n, num_prompt_tokens=5 * n, max_tokens=20 - n) for n in range(1, 12)]
    core.server.send(*map(Submit, requests))
    outputs = core.server.outputs_until_end_of(*(request.request_id for request in requests))
    for request in requests:
        token_ids = [token_id for output in outputs[request.request_id] for token_id in output.token_ids]
        assert (token_ids, outputs[request.request_id][-1].finish_reason) == solo_output(
            request, MAX_MODEL_LEN
        )


def test_one_frame_for_each_step(core: RunningCore) -> None:
    core.server.send(Submit(make_request("long", num_prompt_tokens=100, max_tokens=4)))
    frames = []
    while not isinstance(frame := core.server.receive(), StepOutputs):
        pass
    while isinstance(frame, StepOutputs):
        frames.append(frame)
        frame = core.server.receive()
    assert [frame.stats.num_steps for frame in frames] == [1, 2, 3, 4, 5, 6, 7]
    works = [frame.work for frame in frames if frame.work is not None]
    assert sum(work.num_tokens for work in works) == 100 + 3
    assert len(works) == len(frames)
    assert all(work.host_s > 0 and work.device_s >= 0 for work in works)


@pytest.mark.parametrize("max_steps_in_flight", [1, 2])
def test_frames_say_how_long_a_gpu_was_at_the_step(
    start: Callable[[FakeRunner], RunningCore], max_steps_in_flight: int
) -> None:
    class Timed(FakeRunner):
        num_launched = 0

        def launch(self, plan: StepPlan) -> FakePendingStep:
            self.num_launched += 1
            result = super().launch(plan).result
            return FakePendingStep(msgspec.structs.replace(result, busy_s=float(self.num_launched)))

    core = start(Timed(max_model_len=MAX_MODEL_LEN, max_steps_in_flight=max_steps_in_flight))
    core.server.wait_ready()
    core.server.send(Submit(make_request("r", max_tokens=6)))
    frames = [core.server.receive() for _ in range(6)]
    works = [frame.work for frame in frames if isinstance(frame, StepOutputs) and frame.work is not None]
    assert [work.busy_s for work in works] == [float(number + 1) for number in range(len(works))]
    assert len(works) >= 4


def test_a_first_output_says_when_its_first_step_began(core: RunningCore) -> None:
    before_s = time.monotonic()
    core.server.send(Submit(make_request("long", num_prompt_tokens=100, max_tokens=4)))
    first, *others = core.server.outputs_until_end_of("long")["long"]
    assert first.began_s is not None
    assert before_s <= first.began_s <= time.monotonic()
    assert all(output.began_s is None for output in others)


@pytest.mark.parametrize("max_steps_in_flight", [1, 2])
def test_abort_ends_a_sequence_and_frees_its_blocks(
    start: Callable[[FakeRunner], RunningCore], monkeypatch: pytest.MonkeyPatch, max_steps_in_flight: int
) -> None:
    """The sequence is long enough for an abort that comes late."""
    monkeypatch.setattr(engine.core, "HEARTBEAT_INTERVAL_S", 0.01)
    runner = FakeRunner(num_blocks=6000, max_model_len=20_000, max_steps_in_flight=max_steps_in_flight)
    core = start(runner)
    core.server.wait_ready()
    core.server.send(Submit(make_request("r", max_tokens=19_000)), Abort("r"), Abort("unknown"))
    outputs = core.server.outputs_until_end_of("r")["r"]
    assert outputs[-1].finish_reason is FinishReason.ABORTED
    assert core.server.stats.num_owned_blocks == 0
    assert core.server.stats.num_aborted == 1


@pytest.mark.check("R06")
@pytest.mark.parametrize("max_steps_in_flight", [1, 2])
def test_at_most_two_steps_end_after_an_abort_has_come(
    start: Callable[[FakeRunner], RunningCore], max_steps_in_flight: int
) -> None:
    """Scenario: the abort comes while a step is being launched. Result: the sequence is in no later plan."""
    plans: list[StepPlan] = []

    class Aborting(FakeRunner):
        def launch(self, plan: StepPlan) -> FakePendingStep:
            plans.append(plan)
            if len(plans) == 5:
                running.deliver(Abort("r"))
            return super().launch(plan)

    running = start(Aborting(max_model_len=MAX_MODEL_LEN, max_steps_in_flight=max_steps_in_flight))
    running.server.wait_ready()
    running.server.send(Submit(make_request("r", max_tokens=120)))
    outputs = running.server.outputs_until_end_of("r")["r"]
    assert outputs[-1].finish_reason is FinishReason.ABORTED
    assert len(plans) == 5
    assert sum(len(output.token_ids) for output in outputs) <= 5
    assert running.server.stats.num_owned_blocks == 0


def test_what_can_never_fit_fails_and_others_go_on(core: RunningCore) -> None:
    core.server.send(Submit(make_request("large", num_prompt_tokens=500)), Submit(make_request("small")))
    outputs = core.server.outputs_until_end_of("large", "small")
    (refusal,) = outputs["large"]
    assert (refusal.finish_reason, refusal.error) == (FinishReason.FAILED, "request_too_large")
    assert outputs["small"][-1].finish_reason is FinishReason.LENGTH
    assert (core.server.stats.num_failed, core.server.stats.num_finished) == (1, 1)


def test_resets_the_prefix_cache(core: RunningCore) -> None:
    core.server.send(Submit(make_request("r", num_prompt_tokens=20)))
    core.server.outputs_until_end_of("r")
    assert core.server.stats.num_cached_blocks > 0
    core.server.send(ResetPrefixCache())
    while core.server.stats.num_cached_blocks:
        assert isinstance(core.server.receive(), Heartbeat)


def test_an_adapter_that_fails_by_anything_is_refused(
    start: Callable[[FakeRunner], RunningCore], caplog: pytest.LogCaptureFixture
) -> None:
    class Full(FakeRunner):
        def load_adapter(self, adapter: int, path: str) -> int:
            raise RuntimeError("DefaultCPUAllocator: not enough memory at 0x7f00")

    core = start(Full())
    core.server.wait_ready()
    core.server.send(LoadAdapter(3, "/adapters/sql"))
    while isinstance(reply := core.server.receive(), Heartbeat):
        pass
    assert reply == AdapterRefused(3, "reading it failed: RuntimeError")
    assert "/adapters/sql" in caplog.text
    assert "not enough memory" in caplog.text


def test_beats_while_idle(core: RunningCore) -> None:
    assert all(isinstance(core.server.receive(), Heartbeat) for _ in range(3))


def test_shutdown_ends_the_loop(core: RunningCore) -> None:
    core.server.send(Submit(make_request("r", max_tokens=120)), Shutdown())
    assert core.wait_ended() is None


def test_ends_when_the_server_is_gone(core: RunningCore) -> None:
    core.server.send(Submit(make_request("r", max_tokens=120)))
    core.server.close()
    assert isinstance(core.wait_ended(), ChannelClosedError)


def test_an_error_of_the_runner_ends_the_loop(start: Callable[[FakeRunner], RunningCore]) -> None:
    class Broken(FakeRunner):
        def launch(self, plan: StepPlan) -> FakePendingStep:
            raise RuntimeError("no such device")

    core = start(Broken())
    core.server.wait_ready()
    core.server.send(Submit(make_request("r")))
    assert str(core.wait_ended()) == "no such device"
