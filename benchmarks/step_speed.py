"""How fast does the engine step, without server and HTTP? JSON lines, one a batch size.

    python -m benchmarks.step_speed FOLDER [--batches 1 32 128 256] [--prompt 512] [--output 128]
        [--temperature 0] [--commit HASH]

FOLDER holds a config.json; the weights are seeded dummies. Sequences of equal length start together.
`first_ms` is the time from the start to the first token of any, `step_ms` that between the results of steps
in which all of them decode. `host_us` is what the host works for such a step: planning, launching, updating.
Then it waits for the device, `wait_us`; while it waits, the device has work.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from engine.config import EngineConfig
from engine.messages import EngineRequest, SamplingParams
from engine.model_runner import ModelRunner
from engine.scheduler import Scheduler

if TYPE_CHECKING:
    from engine.pending_step import PendingStep
    from engine.step import StepPlan

FIRST_ID, LAST_ID = 300, 48_000
NUM_WARM_UP_TOKENS = 4


@dataclass(frozen=True)
class Workload:
    """Sequences of equal length that start together."""

    num_seqs: int
    num_prompt_tokens: int
    num_output_tokens: int
    temperature: float

    def requests(self, vocab_size: int) -> list[EngineRequest]:
        """Return them, with random prompts."""
        numbers = random.Random(self.num_seqs)
        last_id = min(LAST_ID, vocab_size)
        return [
            EngineRequest(
                str(index),
                [
                    numbers.randrange(min(FIRST_ID, last_id - 1), last_id)
                    for _ in range(self.num_prompt_tokens)
                ],
                SamplingParams(max_tokens=self.num_output_tokens, temperature=self.temperature, seed=index),
            )
            for index in range(self.num_seqs)
        ]


@dataclass
class Times:
    """Seconds, of one run."""

    first: float = 0.0
    steps: list[float] = field(default_factory=list)
    host: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


def run(runner: ModelRunner, scheduler: Scheduler, workload: Workload) -> Times:
    """Generate everything, as the engine's loop does."""
    for request in workload.requests(runner.info.vocab_size):
        scheduler.add(request)
    in_flight: deque[tuple[StepPlan, PendingStep]] = deque()
    times = Times()
    start = time.perf_counter()
    last_result = 0.0
    while scheduler.has_requests or in_flight:
        begun = time.perf_counter()
        plan = scheduler.schedule()
        if plan is not None:
            in_flight.append((plan, runner.launch(plan)))
        launched = time.perf_counter()
        if plan is not None and len(in_flight) < runner.max_steps_in_flight:
            continue
        collected_plan, pending = in_flight.popleft()
        result = pending.collect()
        collected = time.perf_counter()
        scheduler.update(collected_plan, result)
        updated = time.perf_counter()
        if result.sampled:
            times.first = times.first or updated - start
        if (
            len(result.sampled)
            == workload.num_seqs
            == sum(chunk.num_tokens for chunk in collected_plan.chunks)
        ):
            if last_result:
                times.steps.append(collected - last_result)
                times.host.append(launched - begun + updated - collected)
                times.waits.append(collected - launched)
            last_result = collected
    return times


def measure(runner: ModelRunner, scheduler: Scheduler, workload: Workload) -> dict[str, float]:
    """Run twice, and describe the second time."""
    run(runner, scheduler, replace(workload, num_output_tokens=NUM_WARM_UP_TOKENS))
    times = run(runner, scheduler, workload)
    step = statistics.median(times.steps)
    return {
        "first_ms": round(1e3 * times.first, 2),
        "step_ms": round(1e3 * step, 3),
        "step_ms_worst": round(1e3 * max(times.steps), 3),
        "tok_s": round(workload.num_seqs / step, 1),
        "host_us": round(1e6 * statistics.median(times.host), 1),
        "wait_us": round(1e6 * statistics.median(times.waits), 1),
    }


def main() -> None:
    """Measure each batch size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32, 128, 256])
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--output", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--num-threads", type=int)
    parser.add_argument("--commit", default="")
    arguments = parser.parse_args()
    config = EngineConfig(
        model_path=arguments.folder,
        load_format="dummy",
        max_num_seqs=max(arguments.batches),
        num_threads=arguments.num_threads,
    )
    runner = ModelRunner.load(config, lambda *_: None)
    info = runner.info
    scheduler = Scheduler(
        info.num_blocks,
        info.block_size,
        runner.max_num_seqs,
        runner.max_num_batched_tokens,
        info.max_model_len,
        enable_prefix_caching=False,
    )
    device = torch.cuda.get_device_name() if info.device == "cuda" else "cpu"
    origin = {"device": device, "torch": torch.__version__, "commit": arguments.commit}
    for num_seqs in arguments.batches:
        workload = Workload(num_seqs, arguments.prompt, arguments.output, arguments.temperature)
        sizes = {"num_seqs": num_seqs, "prompt": arguments.prompt, "output": arguments.output}
        print(
            json.dumps(
                {"model": arguments.folder, **sizes, **measure(runner, scheduler, workload), **origin}
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
