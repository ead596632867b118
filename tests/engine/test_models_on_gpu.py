"""The families on a GPU: Triton kernels, cache sizing from measured memory, device-resident rows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from hand_plans import HandPlans
from tiny_model import FAMILIES, VOCAB_SIZE, make_tiny_model

from engine.config import EngineConfig
from engine.messages import SamplingParams
from engine.model_runner import ModelRunner

if TYPE_CHECKING:
    from pathlib import Path

    from tiny_model import Family

    from engine.config import DataType

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


FEW, MANY = (1, 8, 13, 37, 70), (1, 8, 13, 9, 3, 5, 60, 2, 17, 70, 4, 6, 80)
"""Lengths of prompts. Of many, the short ones decode beside the others' chunks."""


def load_on_gpu(folder: Path, dtype: DataType, max_num_seqs: int = 8) -> ModelRunner:
    config = EngineConfig(
        model_path=str(folder), dtype=dtype, device="cuda", block_size=16, max_num_seqs=max_num_seqs,
        gpu_memory_utilization=0.5,
    )  # fmt: skip
    return ModelRunner.load(config, lambda *_: None)


def run_mixed_batch(
    runner: ModelRunner, sampling: SamplingParams, lens: tuple[int, ...] = FEW
) -> list[list[int]]:
    """Generate 20 tokens for prompts of several lengths, prefilled in chunks beside decodes."""
    prompts = [[(7 * i * i + 3 * length) % VOCAB_SIZE for i in range(length)] for length in lens]
    plans = HandPlans(runner)
    rows = [plans.admit(prompt, sampling=sampling) for prompt in prompts]
    ends = {row: len(prompt) + 20 for row, prompt in zip(rows, prompts, strict=True)}
    while unfinished := [row for row in rows if len(plans.tokens[row]) < ends[row]]:
        plans.step({row: min(17, plans.remaining(row)) for row in unfinished})
    plans.finish()
    return [plans.tokens[row] for row in rows]


@pytest.mark.parametrize("lens", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_transformers(tmp_path: Path, family: Family, lens: tuple[int, ...]) -> None:
    folder = make_tiny_model(tmp_path, family)
    runner = load_on_gpu(folder, "float32", max_num_seqs=len(lens) + 3)
    outputs = run_mixed_batch(runner, SamplingParams(max_tokens=1, temperature=0.0), lens)
    auto: Any = transformers.AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=torch.float32)
    for tokens in outputs:
        with torch.inference_mode():
            logits = model(torch.tensor([tokens[:-1]])).logits[0, -20:]
        assert tokens[-20:] == logits.argmax(-1).tolist()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_runs_in_16_bits(tmp_path: Path, family: Family, dtype: DataType) -> None:
    folder = make_tiny_model(tmp_path, family)
    runner = load_on_gpu(folder, dtype)
    outputs = run_mixed_batch(runner, SamplingParams(max_tokens=1, temperature=0.0, num_logprobs=1))
    assert outputs == run_mixed_batch(runner, SamplingParams(max_tokens=1, temperature=0.0))
    auto: Any = transformers.AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=torch.float32)
    for tokens in outputs:
        with torch.inference_mode():
            logits = model(torch.tensor([tokens[:-1]])).logits[0, -20:]
        chosen = logits.gather(1, torch.tensor(tokens[-20:])[:, None])[:, 0]
        assert (logits.amax(-1) - chosen).max() < 0.3


def test_a_step_says_how_long_the_device_was_at_it(tmp_path: Path) -> None:
    runner = load_on_gpu(make_tiny_model(tmp_path, "qwen3"), "bfloat16")
    plans = HandPlans(runner)
    row = plans.admit(range(70))
    for _ in range(4):  # a prompt, then decodes from a graph
        begun_s = time.perf_counter()
        busy_s = plans.step([row]).busy_s
        assert busy_s is not None
        assert 0 < busy_s < time.perf_counter() - begun_s
    plans.finish()


def test_the_cache_takes_its_share_of_memory(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, "llama3", max_position_embeddings=1 << 20)
    config = EngineConfig(model_path=str(folder), device="cuda", max_num_seqs=512, gpu_memory_utilization=0.5)
    runner = ModelRunner.load(config, lambda *_: None)
    free, total = torch.cuda.mem_get_info()
    assert runner.info.num_blocks > 1
    assert 0.4 < 1 - free / total < 0.55
    plans = HandPlans(runner)
    row = plans.admit([5, 9, 33], sampling=SamplingParams(max_tokens=1, temperature=0.0))
    plans.step([row])
    assert plans.tokens[row][-1] >= 0
