"""How fast does the engine step, without server and HTTP? JSON lines.

    python -m benchmarks.step_speed FOLDER [--batches 1 32 128 256] [--prompt 512] [--output 128]
        [--mixed 128] [--arrivals 8] [--arrival-len 1024] [--profile-steps 50]
        [--temperature 0] [--commit HASH]

FOLDER holds a config.json; the weights are seeded dummies. Sequences of equal length start together. With
--batches, steps in which all of them decode are measured; with --mixed, steps in which prompts are computed
beside them: --arrivals prompts of --arrival-len tokens come again and again, each for one token.

A line a workload: `first_ms` is the time from the start to the first token of any, `step_ms` that between
the results of two steps. `host_us` is what the host works for a step: planning, launching, updating. Then it
waits for the device, `wait_us`. These are medians. On a GPU `idle_between` is the share of the time in which
the device had no step to compute, by events around each step.

On a GPU a second line a workload, of --profile-steps steps in the middle (0 prints none): `kernel_ms` is the
time in which a kernel ran and `kernels` how many, for a step, by torch.profiler. `idle` is what this leaves
of `step_ms_mean`, the time of the same steps without the profiler: the share in which the device ran no
kernel, inside steps or between them. The profiler slows the host: `profiled_step_ms` and `profiled_idle`
are with it.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

import msgspec
import torch

from benchmarks.kernel_times import KernelRecorder
from cli.engine_timing import StepTimes, make_scheduler, random_requests, run_steps
from engine.config import EngineConfig
from engine.messages import SamplingParams
from engine.model_runner import ModelRunner

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.kernel_times import KernelTimes
    from cli.engine_timing import TimedStep
    from engine.core import Runner
    from engine.messages import EngineRequest
    from engine.scheduler import Scheduler

NUM_WARM_UP_TOKENS = 4
NUM_EDGE_STEPS = 2
"""Steady steps before and after those that are profiled, at least."""


@dataclass(frozen=True)
class Workload:
    """Sequences of equal length that start together, and prompts that arrive while all of these decode."""

    num_seqs: int
    prompt: int
    """Tokens."""
    output: int
    temperature: float = 0.0
    num_arrivals: int = 0
    """Prompts that arrive together, whenever fewer than so many wait. Each ends with its first token."""
    arrival_len: int = 0

    def requests(self, vocab_size: int) -> list[EngineRequest]:
        """Return the sequences, with random prompts."""
        sampling = SamplingParams(max_tokens=self.output, temperature=self.temperature)
        return random_requests("decode", self.num_seqs, self.prompt, sampling, vocab_size)

    def arrivals(self, vocab_size: int) -> Iterator[list[EngineRequest]]:
        """Yield what arrives together, without end; the ids alone differ."""
        sampling = SamplingParams(max_tokens=1, temperature=self.temperature)
        requests = random_requests("arrival", self.num_arrivals, self.arrival_len, sampling, vocab_size)
        for number in count():
            yield [
                msgspec.structs.replace(request, request_id=f"{request.request_id}-{number}")
                for request in requests
            ]

    def is_steady(self, step: TimedStep) -> bool:
        """Whether a step is of those that are measured."""
        if not self.num_arrivals:
            return step.decodes(self.num_seqs)
        return step.num_seqs > self.num_seqs <= step.num_sampled and step.num_tokens > step.num_seqs

    def warm_up(self) -> Workload:
        """Return what runs all of the kernels once."""
        return self if self.num_arrivals else replace(self, output=NUM_WARM_UP_TOKENS)


class Bench:
    """Runs workloads on one engine."""

    def __init__(self, runner: Runner, scheduler: Scheduler) -> None:
        self._runner = runner
        self._scheduler = scheduler

    def run(self, workload: Workload) -> Iterator[TimedStep]:
        """Generate everything, and yield each step."""
        vocab_size = self._runner.info.vocab_size
        for request in workload.requests(vocab_size):
            self._scheduler.add(request)
        arrivals = workload.arrivals(vocab_size)
        for step in run_steps(self._runner, self._scheduler):
            all_decode = step.decodes(workload.num_seqs) or workload.is_steady(step)
            if all_decode and self._scheduler.stats().num_waiting < workload.num_arrivals:
                for request in next(arrivals):
                    self._scheduler.add(request)
            yield step

    def measure(self, workload: Workload) -> tuple[dict[str, float], list[TimedStep]]:
        """Run twice. Return figures of the second time, and its steady steps.

        Raises:
            ValueError: too few steps were steady.
        """
        for _ in self.run(workload.warm_up()):
            pass
        begun_s = time.perf_counter()
        steps = list(self.run(workload))
        first_s = next(step.ended_s for step in steps if step.num_sampled) - begun_s
        steady = [step for step in steps if workload.is_steady(step)]
        if len(steady) < 2:
            raise ValueError(f"--output: expected more than {workload.output}, so that all sequences meet")
        times = StepTimes.of(steady)
        figures = {
            "first_ms": round(1e3 * first_s, 2),
            "step_tokens": sum(step.num_tokens for step in steady) // len(steady),
            "step_ms": round(1e3 * times.median_s, 3),
            "step_ms_worst": round(1e3 * times.worst_s, 3),
            "tok_s": round(workload.num_seqs / times.median_s, 1),
            "host_us": round(1e6 * times.host_s, 1),
            "wait_us": round(1e6 * times.wait_s, 1),
        }
        return figures | ({} if times.idle is None else {"idle_between": round(times.idle, 4)}), steady

    def record(self, workload: Workload, window: range, recorder: KernelRecorder) -> KernelTimes:
        """Run once more, and record the kernels of these steady steps."""
        kernels = None
        steady = (step for step in self.run(workload) if workload.is_steady(step))
        for index, _ in enumerate(steady):
            if index == window.start:
                recorder.start()
            elif index == window.stop:
                kernels = recorder.stop()
        assert kernels is not None, window
        return kernels


def middle(num_steps: int, wanted: int) -> range:
    """Return the places of at most `wanted` steps in the middle of so many."""
    size = min(wanted, num_steps - 2 * NUM_EDGE_STEPS)
    start = (num_steps - size) // 2
    return range(start, start + size)


def profile(bench: Bench, workload: Workload, steady: Sequence[TimedStep], wanted: int) -> dict[str, float]:
    """Return for which share of the time kernels run, in steps in the middle; `steady` was not profiled."""
    window = middle(len(steady), wanted)
    kernels = bench.record(workload, window, KernelRecorder())
    return idle_figures(kernels, StepTimes.of(steady[window.start : window.stop + 1]).mean_s, len(window))


def idle_figures(kernels: KernelTimes, mean_s: float, num_steps: int) -> dict[str, float]:
    """Describe the kernels of so many steps, which took `mean_s` each without the profiler."""
    kernel_s = kernels.busy_s / num_steps
    return {
        "profiled_steps": num_steps,
        "kernels": round(kernels.num_kernels / num_steps, 1),
        "kernel_ms": round(1e3 * kernel_s, 3),
        "step_ms_mean": round(1e3 * mean_s, 3),
        "idle": round(1 - kernel_s / mean_s, 4),
        "profiled_step_ms": round(1e3 * kernels.wall_s / num_steps, 3),
        "profiled_idle": round(1 - kernels.busy_s / kernels.wall_s, 4),
    }


def main() -> None:
    """Measure each workload, then profile each: the profiler may slow what comes after it."""
    arguments = _parse()
    workloads = [
        Workload(num_seqs, arguments.prompt, arguments.output, arguments.temperature)
        for num_seqs in arguments.batches
    ]
    workloads += [
        Workload(
            num_seqs,
            arguments.prompt,
            arguments.output,
            arguments.temperature,
            arguments.arrivals,
            arguments.arrival_len,
        )
        for num_seqs in arguments.mixed
    ]
    config = EngineConfig(
        model_path=arguments.folder,
        load_format="dummy",
        max_num_seqs=max(each.num_seqs + 4 * each.num_arrivals for each in workloads),
        num_threads=arguments.num_threads,
    )
    runner = ModelRunner.load(config, lambda *_: None)
    bench = Bench(runner, make_scheduler(runner))
    is_gpu = runner.info.device == "cuda"
    device = torch.cuda.get_device_name() if is_gpu else "cpu"
    origin = {"device": device, "torch": torch.__version__, "commit": arguments.commit}

    def say(workload: Workload, figures: dict[str, float]) -> None:
        sizes = {name: value for name, value in vars(workload).items() if name != "temperature"}
        print(json.dumps({"model": arguments.folder, **sizes, **figures, **origin}), flush=True)

    measured = []
    for workload in workloads:
        figures, steady = bench.measure(workload)
        say(workload, figures)
        measured.append((workload, steady))
    for workload, steady in measured if is_gpu and arguments.profile_steps else ():
        say(workload, profile(bench, workload, steady, arguments.profile_steps))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 32, 128, 256])
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--output", type=int, default=128)
    parser.add_argument("--mixed", type=int, nargs="*", default=[128])
    parser.add_argument("--arrivals", type=int, default=8)
    parser.add_argument("--arrival-len", type=int, default=1024)
    parser.add_argument("--profile-steps", type=int, default=50)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--num-threads", type=int)
    parser.add_argument("--commit", default="")
    return parser.parse_args()


if __name__ == "__main__":
    main()
