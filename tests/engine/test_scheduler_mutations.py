"""Each planted bug must be found by the simulation's checks, and none where nothing is planted."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec
import pytest
from fake_runner import EOS, STOP
from scheduler_simulation import Profile, Simulation

import engine.block_pool
import engine.request
import engine.running_set
import engine.scheduler
import engine.waiting_queue
from engine.account import Account
from engine.block_pool import BlockPool
from engine.messages import EngineRequest, FinishReason, RequestOutput, SamplingParams
from engine.request import Request
from engine.running_set import RunningSet
from engine.scheduler import Scheduler
from engine.step_draft import StepDraft
from engine.waiting_queue import WaitingQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.step import SampledToken, StepPlan, StepResult

pytestmark = pytest.mark.check("P01", "P02", "P05")

PROFILES = [
    Profile(num_blocks=8, block_size=4),
    Profile(num_blocks=12, block_size=4, max_num_seqs=6, max_num_batched_tokens=6),
    Profile(num_blocks=48, block_size=1, max_num_seqs=3),
    Profile(num_blocks=60, block_size=4, max_num_seqs=8, max_num_batched_tokens=40),
    Profile(num_blocks=12, block_size=4, max_num_seqs=6, max_num_batched_tokens=12, max_steps_in_flight=2),
    Profile(num_blocks=24, block_size=4, max_num_batched_tokens=24, long_prefill_token_threshold=5),
]
NUM_HISTORIES = 200
PREFIXES: tuple[list[int], ...] = ([], [2, 3, 4, 5], [2, 3, 4, 5, 6, 7, 8, 9], [9] * 20)


def run_all() -> list[Simulation]:
    return [run_congestion(), *map(run_history, range(NUM_HISTORIES))]


def run_history(seed: int) -> Simulation:
    """Add, step, abort and sabotage at random, then let everything end."""
    dice = random.Random(seed)
    simulation = Simulation(PROFILES[seed % len(PROFILES)])
    for action in range(60):
        match dice.randrange(10):
            case 0 | 1 | 2:
                simulation.add(_random_request(dice, f"r{action}", simulation.now_s))
            case 3:
                simulation.abort(dice.choice([*simulation.live, "unknown"]))
            case 4:
                simulation.step(abort_midway=dice.choice([*simulation.live, "unknown"]))
            case 5:
                simulation.step(sabotage=dice.choice([*simulation.live, "unknown"]))
            case _:
                simulation.step()
    simulation.finish()
    return simulation


def run_congestion() -> Simulation:
    """Many sequences that all grow to most of the pool's size."""
    simulation = Simulation(Profile(num_blocks=64, block_size=1, max_num_seqs=16, max_model_len=64))
    for number in range(32):
        sampling = SamplingParams(max_tokens=42)
        simulation.add(EngineRequest(f"r{number}", list(range(2, 3 + number % 8)), sampling))
    simulation.finish()
    return simulation


def _random_request(dice: random.Random, request_id: str, now_s: float) -> EngineRequest:
    sampling = SamplingParams(
        max_tokens=dice.randint(1, 24),
        eos_token_ids=dice.choice([(), (EOS,)]),
        stop_token_ids=dice.choice([(), (STOP,)]),
        min_tokens=dice.choice([0, 0, 3]),
        num_prompt_logprobs=dice.choice([None, None, None, 0]),
    )
    prompt = [*dice.choice(PREFIXES), *dice.choices(range(2, 5), k=dice.randint(1, 12))]
    salt = dice.choice(["", "", "tenant"])
    request = EngineRequest(request_id, prompt, sampling, dice.choice([0, 0, 1]), salt, dice.random() < 0.2)
    tenant, weight = dice.choice([("", 1.0), ("", 1.0), ("light", 0.5), ("heavy", 4.0)])
    deadline_s = dice.choice([None, None, None, now_s + dice.randint(0, 30)])
    return msgspec.structs.replace(request, tenant=tenant, weight=weight, deadline_s=deadline_s)


# Block pool


def releases_all_but_one(patch: pytest.MonkeyPatch) -> None:
    release = BlockPool.release
    patch.setattr(BlockPool, "release", lambda pool, block_ids: release(pool, block_ids[:-1]))


def releases_shared_blocks_to_the_free_list(patch: pytest.MonkeyPatch) -> None:
    def release(pool: BlockPool, block_ids: Sequence[int]) -> None:
        for block_id in block_ids:
            pool._ref_counts[block_id] = 0
            pool._free.append(block_id)

    patch.setattr(BlockPool, "release", release)


def counts_full_blocks_only(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BlockPool, "num_blocks_for", lambda pool, num_tokens: num_tokens // pool.block_size)


def counts_a_block_too_many(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BlockPool, "num_blocks_for", lambda pool, num_tokens: num_tokens // pool.block_size + 2)


def forgets_the_salt(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(engine.block_pool, "root_key", lambda salt: b"")


def forgets_the_parent(patch: pytest.MonkeyPatch) -> None:
    block_key = engine.block_pool.block_key
    patch.setattr(engine.block_pool, "block_key", lambda parent, token_ids: block_key(b"", token_ids))


def evicts_without_forgetting(patch: pytest.MonkeyPatch) -> None:
    def unpublish(pool: BlockPool, block_id: int) -> None:
        pool._keys[block_id] = None

    patch.setattr(BlockPool, "_unpublish", unpublish)


def keeps_blocks_that_may_hold_nan(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BlockPool, "forget", lambda pool, block_ids: None)


# Requests


def takes_the_whole_prompt_from_the_cache(patch: pytest.MonkeyPatch) -> None:
    def keys(request: Request, block_size: int) -> list[bytes]:
        request.extend_block_keys(block_size, len(request.token_ids) // block_size)
        return request.block_keys if request.reads_cache else []

    patch.setattr(Request, "reusable_keys", keys)


def reads_the_cache_for_prompt_logprobs(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Request, "reads_cache", property(lambda request: request.uses_cache))


def forgets_output_on_preemption(patch: pytest.MonkeyPatch) -> None:
    restart = Request.restart

    def restart_from_the_prompt(request: Request) -> None:
        restart(request)
        del request.token_ids[request.num_prompt_tokens :]

    patch.setattr(Request, "restart", restart_from_the_prompt)


def keeps_progress_on_preemption(patch: pytest.MonkeyPatch) -> None:
    def restart(request: Request) -> None:
        request.num_preemptions += 1

    patch.setattr(Request, "restart", restart)
    patch.setattr(Scheduler, "_count_first_admission", lambda scheduler, request: None)


def ends_a_token_late(patch: pytest.MonkeyPatch) -> None:
    append = Request.append

    def append_late(request: Request, token_id: int) -> tuple[FinishReason | None, int | None]:
        reason, stop = append(request, token_id)
        is_late = len(request.token_ids) > request.max_num_tokens
        return (None, None) if reason is FinishReason.LENGTH and not is_late else (reason, stop)

    patch.setattr(Request, "append", append_late)


def announces_again_after_preemption(patch: pytest.MonkeyPatch) -> None:
    restart = Request.restart

    def restart_unannounced(request: Request) -> None:
        restart(request)
        request.is_announced = False

    patch.setattr(Request, "restart", restart_unannounced)


# Scheduler


def shares_blocks_that_are_not_full(patch: pytest.MonkeyPatch) -> None:
    def advance(running: RunningSet, request: Request, num_tokens: int) -> None:
        pool = running.pool
        first = pool.num_blocks_for(request.num_computed_tokens)
        request.num_computed_tokens += num_tokens
        if request.uses_cache:
            request.extend_block_keys(pool.block_size, len(request.token_ids) // pool.block_size)
            begun = range(first, pool.num_blocks_for(request.num_computed_tokens))
            for index in begun[: max(len(request.block_keys) - first, 0)]:
                pool.publish(request.block_ids[index], request.block_keys[index])

    patch.setattr(RunningSet, "advance", advance)


def ends_twice(patch: pytest.MonkeyPatch) -> None:
    update = Scheduler.update

    def update_twice(scheduler: Scheduler, plan: StepPlan, result: StepResult) -> list[RequestOutput]:
        outputs = update(scheduler, plan, result)
        return outputs + [output for output in outputs if output.finish_reason is not None]

    patch.setattr(Scheduler, "update", update_twice)


def answers_nothing_on_nan(patch: pytest.MonkeyPatch) -> None:
    take = Scheduler._take_token

    def take_token(scheduler: Scheduler, request: Request, sampled: SampledToken) -> RequestOutput:
        output = take(scheduler, request, sampled)
        return RequestOutput(request.request_id) if output.error else output

    patch.setattr(Scheduler, "_take_token", take_token)


def leaves_the_row_on_abort(patch: pytest.MonkeyPatch) -> None:
    def end(scheduler: Scheduler, request: Request) -> None:
        del scheduler._requests[request.request_id]

    patch.setattr(Scheduler, "_end", end)


def never_tells_of_released_rows(patch: pytest.MonkeyPatch) -> None:
    finish = StepDraft.finish
    patch.setattr(StepDraft, "finish", lambda draft, released_rows: finish(draft, ()))


def gives_long_prompts_all_that_is_left(patch: pytest.MonkeyPatch) -> None:
    init = StepDraft.__init__
    patch.setattr(StepDraft, "__init__", lambda draft, budget, _: init(draft, budget, budget))


def accepts_what_never_fits(patch: pytest.MonkeyPatch) -> None:
    add = Scheduler.add

    def add_anyway(scheduler: Scheduler, source: EngineRequest) -> None:
        pool = scheduler._running.pool
        num_blocks, pool.num_blocks = pool.num_blocks, 10**6
        try:
            add(scheduler, source)
        finally:
            pool.num_blocks = num_blocks

    patch.setattr(Scheduler, "add", add_anyway)


def ignores_the_wish_to_bypass_the_cache(patch: pytest.MonkeyPatch) -> None:
    init = Request.__init__

    def init_cached(request: Request, source: EngineRequest, *arguments: object) -> None:
        init(request, source, *arguments)  # type: ignore[arg-type]
        request.uses_cache = True

    patch.setattr(Request, "__init__", init_cached)


def preempts_without_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(engine.running_set, "MAX_PREEMPTIONS", 10**6)


def lets_small_ones_pass_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(engine.waiting_queue, "MAX_BYPASSES", 10**6)
    patch.setattr(engine.scheduler, "MAX_BYPASSES", 10**6)


# Fair shares and deadlines


def takes_all_tenants_for_one(patch: pytest.MonkeyPatch) -> None:
    add = WaitingQueue.add

    def add_to_one(queue: WaitingQueue, request: Request) -> None:
        tenant, request.tenant = request.tenant, ""
        add(queue, request)
        request.tenant = tenant

    patch.setattr(WaitingQueue, "add", add_to_one)


def charges_for_prompts_alone(patch: pytest.MonkeyPatch) -> None:
    charge = Account.charge
    patch.setattr(Account, "charge", lambda account, tokens: charge(account, tokens if tokens > 1 else 0))


def charges_for_cached_tokens(patch: pytest.MonkeyPatch) -> None:
    count = Scheduler._count_first_admission

    def count_all(scheduler: Scheduler, request: Request) -> None:
        count(scheduler, request)
        request.account.charge(request.num_cached_tokens)

    patch.setattr(Scheduler, "_count_first_admission", count_all)


def charges_again_after_preemption(patch: pytest.MonkeyPatch) -> None:
    restart = Request.restart

    def restart_and_charge(request: Request) -> None:
        restart(request)
        request.account.charge(request.num_prompt_tokens)

    patch.setattr(Request, "restart", restart_and_charge)


def forgets_the_weights(patch: pytest.MonkeyPatch) -> None:
    def charge(account: Account, num_tokens: int) -> None:
        account.served += num_tokens

    patch.setattr(Account, "charge", charge)


def rewards_those_who_were_away(patch: pytest.MonkeyPatch) -> None:
    offer = WaitingQueue.offer

    def offer_from_zero(queue: WaitingQueue, admit: Callable[[Request], bool]) -> list[Request]:
        expired = offer(queue, admit)
        queue._least_served = 0.0
        return expired

    patch.setattr(WaitingQueue, "offer", offer_from_zero)


def begins_what_is_too_late(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Request, "is_too_late", lambda request, clock: False)


def ends_what_has_begun_at_its_deadline(patch: pytest.MonkeyPatch) -> None:
    def is_too_late(request: Request, clock: Callable[[], float]) -> bool:
        return request.deadline_s is not None and clock() >= request.deadline_s

    patch.setattr(Request, "is_too_late", is_too_late)


def says_nothing_of_what_expired(patch: pytest.MonkeyPatch) -> None:
    end_early = Scheduler.end_early

    def end_silently(scheduler: Scheduler) -> list[RequestOutput]:
        return [one for one in end_early(scheduler) if one.finish_reason is not FinishReason.EXPIRED]

    patch.setattr(Scheduler, "end_early", end_silently)


PLANTED = [
    releases_all_but_one,
    releases_shared_blocks_to_the_free_list,
    counts_full_blocks_only,
    counts_a_block_too_many,
    forgets_the_salt,
    forgets_the_parent,
    evicts_without_forgetting,
    keeps_blocks_that_may_hold_nan,
    takes_the_whole_prompt_from_the_cache,
    reads_the_cache_for_prompt_logprobs,
    forgets_output_on_preemption,
    keeps_progress_on_preemption,
    ends_a_token_late,
    announces_again_after_preemption,
    shares_blocks_that_are_not_full,
    ends_twice,
    answers_nothing_on_nan,
    leaves_the_row_on_abort,
    never_tells_of_released_rows,
    gives_long_prompts_all_that_is_left,
    accepts_what_never_fits,
    ignores_the_wish_to_bypass_the_cache,
    preempts_without_end,
    lets_small_ones_pass_for_ever,
    takes_all_tenants_for_one,
    charges_for_prompts_alone,
    charges_for_cached_tokens,
    charges_again_after_preemption,
    forgets_the_weights,
    rewards_those_who_were_away,
    begins_what_is_too_late,
    ends_what_has_begun_at_its_deadline,
    says_nothing_of_what_expired,
]


def test_nothing_is_found_where_nothing_is_planted() -> None:
    stats = [simulation.scheduler.stats() for simulation in run_all()]
    assert min(sum(s.num_preemptions for s in stats), sum(s.num_prefix_hit_tokens for s in stats)) > 100


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_planted_bug_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        run_all()
