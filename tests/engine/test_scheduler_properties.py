"""The scheduler under random histories; `scheduler_simulation.py` says what must hold throughout."""

from __future__ import annotations

import pytest
from fake_runner import EOS, STOP
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from scheduler_simulation import Profile, Simulation

from engine.messages import EngineRequest, SamplingParams

pytestmark = pytest.mark.check("P01", "P02")

SHARED_PREFIXES: tuple[list[int], ...] = (
    [],
    [2, 3, 4, 5],
    list(range(2, 14)),
    [9] * 24,
)

WEIGHTS = {"": 1.0, "light": 0.5, "heavy": 4.0}
DEPTHS = st.integers(1, 3)
LORAS = st.sampled_from([0, 0, 1, 2])
THRESHOLDS = st.sampled_from([0, 0, 1, 3, 8])

TINY = st.builds(
    Profile,
    num_blocks=st.integers(2, 12),
    block_size=st.sampled_from([1, 4, 16]),
    max_num_seqs=st.integers(1, 6),
    max_num_batched_tokens=st.integers(1, 24),
    enable_prefix_caching=st.integers(0, 9).map(bool),
    max_steps_in_flight=DEPTHS,
    max_loras=LORAS,
    long_prefill_token_threshold=THRESHOLDS,
)
EXACT_FIT = st.builds(
    Profile,
    num_blocks=st.just(12),
    block_size=st.just(4),
    max_num_seqs=st.integers(2, 6),
    max_num_batched_tokens=st.integers(2, 64),
    max_model_len=st.just(49),
    max_steps_in_flight=DEPTHS,
    max_loras=LORAS,
    long_prefill_token_threshold=THRESHOLDS,
)
HUGE = st.builds(
    Profile,
    num_blocks=st.just(160),
    block_size=st.just(4),
    max_num_seqs=st.integers(1, 12),
    max_num_batched_tokens=st.integers(1, 64),
    max_model_len=st.just(64),
    max_steps_in_flight=DEPTHS,
    max_loras=LORAS,
    long_prefill_token_threshold=THRESHOLDS,
)
SAMPLING = st.builds(
    SamplingParams,
    max_tokens=st.integers(1, 24),
    min_tokens=st.integers(0, 4),
    eos_token_ids=st.sampled_from([(), (EOS,)]),
    stop_token_ids=st.sampled_from([(), (STOP,)]),
    num_logprobs=st.sampled_from([None, None, 1]),
    num_prompt_logprobs=st.sampled_from([None, None, None, 0]),
)


class SchedulerMachine(RuleBasedStateMachine):
    profiles: st.SearchStrategy[Profile]

    def __init__(self) -> None:
        super().__init__()
        self.num_added = 0

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        self.simulation = Simulation(data.draw(self.profiles))

    @rule(
        prefix=st.sampled_from(SHARED_PREFIXES),
        suffix=st.lists(st.integers(2, 5), min_size=1, max_size=20),
        sampling=SAMPLING,
        num_copies=st.sampled_from([1, 1, 1, 3]),
        priority=st.sampled_from([0, 0, 0, -1, 1, 2**31 - 1]),
        salt=st.sampled_from(["", "", "tenant"]),
        bypass=st.integers(0, 9).map(lambda n: n == 0),
        adapter=st.sampled_from([0, 0, 1, 2, 3]),
        tenant=st.sampled_from(["", "", "", "light", "heavy"]),
        patience=st.sampled_from([None, None, 0, 3, 30]),
    )
    def add(
        self,
        prefix: list[int],
        suffix: list[int],
        sampling: SamplingParams,
        num_copies: int,
        priority: int,
        salt: str,
        bypass: bool,
        adapter: int,
        tenant: str,
        patience: int | None,
    ) -> None:
        adapter = adapter if self.simulation.profile.max_loras else 0
        for _ in range(num_copies):
            request_id = f"r{self.num_added}"
            self.num_added += 1
            request = EngineRequest(
                request_id,
                [*prefix, *suffix],
                sampling,
                priority,
                salt,
                bypass,
                adapter=adapter,
                tenant=tenant,
                weight=WEIGHTS[tenant],
                deadline_s=None if patience is None else self.simulation.now_s + patience,
            )
            self.simulation.add(request)

    @rule(num_steps=st.sampled_from([1, 1, 2, 8]))
    def step(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.simulation.step()

    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.simulation.abort(self._any_id(data))

    @rule(data=st.data())
    def abort_midway(self, data: st.DataObject) -> None:
        self.simulation.step(abort_midway=self._any_id(data))

    @rule(data=st.data())
    def sabotage(self, data: st.DataObject) -> None:
        self.simulation.step(sabotage=self._any_id(data))

    @rule(data=st.data())
    def abort_and_reuse_the_id(self, data: st.DataObject) -> None:
        request_id = self._any_id(data)
        if request_id in self.simulation.live:
            request = self.simulation.live[request_id].request
            self.simulation.abort(request_id)
            self.simulation.add(request)

    @rule()
    def reset_prefix_cache(self) -> None:
        self.simulation.reset_prefix_cache()

    def _any_id(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from([*self.simulation.live, "unknown"]))

    def teardown(self) -> None:
        if hasattr(self, "simulation"):
            self.simulation.finish()


class TinyPool(SchedulerMachine):
    profiles = TINY


class ExactFit(SchedulerMachine):
    profiles = EXACT_FIT


class HugePool(SchedulerMachine):
    profiles = HUGE


MACHINES = [TinyPool, ExactFit, HugePool]


def run(machine: type[SchedulerMachine], max_examples: int, num_steps: int, is_random: bool) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=num_steps,
            derandomize=not is_random,
            database=None,
            deadline=None,
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("machine", MACHINES)
def test_invariants_and_liveness(machine: type[SchedulerMachine]) -> None:
    run(machine, max_examples=100, num_steps=40, is_random=False)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("machine", MACHINES)
def test_invariants_and_liveness_nightly(machine: type[SchedulerMachine]) -> None:
    run(machine, max_examples=2000, num_steps=100, is_random=True)
