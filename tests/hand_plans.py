"""Drives a model runner with plans made by hand, without a scheduler."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import torch

from engine.config import EngineConfig
from engine.limits import Limits
from engine.messages import SamplingParams
from engine.model_runner import ModelRunner
from engine.step import Admission, Chunk, StepPlan, StepResult
from engine.step_runner import StepRunner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engine.config import (
        DataType,
        Device,
        KVCacheType,
        LoadFormat,
        ModelImplementation,
        Quantization,
    )

GREEDY = SamplingParams(max_tokens=1, temperature=0.0)


def load_runner(
    path: Path,
    *,
    block_size: int = 8,
    num_blocks: int = 96,
    dtype: DataType = "float32",
    load_format: LoadFormat = "auto",
    model_impl: ModelImplementation = "auto",
    device: Device = "cpu",
    max_model_len: int | None = None,
    seed: int = 0,
    max_loras: int = 0,
    quantization: Quantization | None = None,
    kv_cache_dtype: KVCacheType = "auto",
) -> ModelRunner:
    """Load a model, by default on one thread of the CPU, with room for a few sequences."""
    config = EngineConfig(
        model_path=str(path),
        load_format=load_format,
        model_impl=model_impl,
        dtype=dtype,
        device=device,
        block_size=block_size,
        num_blocks=num_blocks,
        max_model_len=max_model_len,
        max_num_seqs=8,
        max_loras=max_loras,
        quantization=quantization,
        kv_cache_dtype=kv_cache_dtype,
        max_num_batched_tokens=256,
        num_threads=1,
        seed=seed,
    )
    return ModelRunner.load(config, lambda *_: None)


def make_device_resident(runner: ModelRunner) -> None:
    """Let a runner on the CPU run its steps as on a GPU, though without graphs."""
    steps = runner._steps
    limits = Limits(runner.info.block_size, runner.max_num_seqs, 256, runner.info.max_model_len)
    runner._steps = StepRunner(
        steps._model,
        steps._caches,
        limits,
        torch.device("cpu"),
        runner._adapters,
        is_device_resident=True,
    )


class HandPlans:
    """Keeps rows and blocks for sequences that a test steps through one by one."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner
        self._block_size = runner.info.block_size
        self._fresh_blocks = count()
        self._free_rows = list(range(runner.max_num_seqs))
        self._released: list[int] = []
        self._admitted: list[Admission] = []
        self.tokens: dict[int, list[int]] = {}
        self.computed: dict[int, int] = {}
        self.blocks: dict[int, list[int]] = {}
        self._new_blocks: dict[int, list[int]] = {}

    def admit(
        self,
        token_ids: Sequence[int],
        *,
        sampling: SamplingParams = GREEDY,
        cached_blocks: Sequence[int] = (),
        num_prompt_tokens: int | None = None,
        adapter: int = 0,
        adapter_slot: int = 0,
    ) -> int:
        """Take a row for a sequence whose first blocks may hold computed tokens; returns the row."""
        row = self._free_rows.pop()
        self.tokens[row] = list(token_ids)
        self.computed[row] = len(cached_blocks) * self._block_size
        self.blocks[row] = list(cached_blocks)
        self._new_blocks[row] = list(cached_blocks)
        prompt_len = len(token_ids) if num_prompt_tokens is None else num_prompt_tokens
        self._admitted.append(Admission(row, tuple(token_ids), prompt_len, sampling, adapter, adapter_slot))
        return row

    def finish(self) -> None:
        """Give all rows up, now."""
        for row in set(range(self._runner.max_num_seqs)) - set(self._free_rows):
            self.release(row)
        self.step({})

    def release(self, row: int) -> None:
        """Give a row up."""
        self._released.append(row)
        self._free_rows.append(row)

    def step(self, num_tokens: dict[int, int] | Sequence[int]) -> StepResult:
        """Compute so many tokens of each row; of rows alone, all that are known and not computed."""
        sizes = (
            num_tokens if isinstance(num_tokens, dict) else {row: self.remaining(row) for row in num_tokens}
        )
        chunks = [self._chunk(row, size) for row, size in sorted(sizes.items(), key=lambda item: item[1] > 1)]
        result = self._runner.execute(StepPlan(tuple(self._released), tuple(self._admitted), tuple(chunks)))
        self._released, self._admitted = [], []
        for sampled in result.sampled:
            self.tokens[sampled.row].append(sampled.token_id)
        return result

    def step_once(self, *prompts: Sequence[int]) -> list[int]:
        """Admit the prompts, compute them whole in one step, and return the token sampled for each."""
        rows = [self.admit(prompt) for prompt in prompts]
        self.step(rows)
        return [self.tokens[row][-1] for row in rows]

    def remaining(self, row: int) -> int:
        """Tokens of a row that are known and not computed."""
        return len(self.tokens[row]) - self.computed[row]

    def _chunk(self, row: int, size: int) -> Chunk:
        start = self.computed[row]
        self.computed[row] += size
        needed = -(-self.computed[row] // self._block_size) - len(self.blocks[row])
        fresh = [next(self._fresh_blocks) for _ in range(needed)]
        self.blocks[row] += fresh
        new, self._new_blocks[row] = (*self._new_blocks[row], *fresh), []
        return Chunk(row, start, size, new, samples=self.computed[row] == len(self.tokens[row]))
