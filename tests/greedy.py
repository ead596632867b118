"""Greedy outputs of transformers, and of ours under a scheduler."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import torch
from tiny_model import VOCAB_SIZE

from engine.messages import EngineRequest, SamplingParams
from engine.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.model_runner import ModelRunner

NUM_NEW_TOKENS = 20


def random_prompt(length: int, seed: int = 0) -> list[int]:
    return random.Random(f"{seed}/{length}").choices(range(3, VOCAB_SIZE), k=length)


def generate_with_transformers(model: Any, prompt: Sequence[int], num_new_tokens: int) -> list[int]:
    """Greedy output of transformers, through EOS."""
    model.generation_config.eos_token_id = None
    input_ids = torch.tensor([list(prompt)])
    output = model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        do_sample=False,
        max_new_tokens=num_new_tokens,
        min_new_tokens=num_new_tokens,
    )
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens


def generate_with_scheduler(
    runner: ModelRunner,
    prompts: Sequence[Sequence[int]],
    num_blocks: int,
    max_num_batched_tokens: int,
    num_new_tokens: int = NUM_NEW_TOKENS,
) -> tuple[list[list[int]], Scheduler]:
    scheduler = Scheduler(
        num_blocks=num_blocks,
        block_size=runner.info.block_size,
        max_num_seqs=runner.max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_len=runner.info.max_model_len,
        enable_prefix_caching=True,
    )
    outputs: list[list[int]] = [[] for _ in prompts]
    for index, prompt in enumerate(prompts):
        sampling = SamplingParams(max_tokens=num_new_tokens, temperature=0.0)
        scheduler.add(EngineRequest(str(index), list(prompt), sampling))
    while (plan := scheduler.schedule()) is not None:
        for output in scheduler.update(plan, runner.execute(plan)):
            outputs[int(output.request_id)] += output.token_ids
    return outputs, scheduler
