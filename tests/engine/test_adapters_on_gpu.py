"""LoRA adapters on a GPU: the Triton kernels, and decode graphs with and without adapters."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from hand_plans import HandPlans
from tiny_adapter import SETTINGS, make_tiny_adapter, with_adapter
from tiny_model import VOCAB_SIZE, make_tiny_model, make_tiny_transformer

from engine.config import EngineConfig
from engine.model_runner import ModelRunner

if TYPE_CHECKING:
    from pathlib import Path

    from tiny_model import Family

    from engine.config import DataType

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

PROMPTS = [[(7 * i * i + 3 * length) % VOCAB_SIZE for i in range(length)] for length in (1, 9, 30, 71)]
NUM_NEW_TOKENS = 16


def load_on_gpu(folder: Path, dtype: DataType, max_loras: int) -> ModelRunner:
    config = EngineConfig(
        model_path=str(folder), dtype=dtype, device="cuda", block_size=16, max_num_seqs=8,
        gpu_memory_utilization=0.5, max_loras=max_loras,
    )  # fmt: skip
    return ModelRunner.load(config, lambda *_: None)


def generate(runner: ModelRunner, slots: list[int]) -> list[list[int]]:
    """Generate for each prompt with the adapter of its slot, whose id is the same number."""
    plans = HandPlans(runner)
    rows = [
        plans.admit(prompt, adapter=slot, adapter_slot=slot)
        for prompt, slot in zip(PROMPTS, slots, strict=True)
    ]
    ends = {row: len(prompt) + NUM_NEW_TOKENS for row, prompt in zip(rows, PROMPTS, strict=True)}
    while unfinished := [row for row in rows if len(plans.tokens[row]) < ends[row]]:
        plans.step({row: min(17, plans.remaining(row)) for row in unfinished})
    plans.finish()
    return [plans.tokens[row] for row in rows]


@pytest.mark.parametrize("family", ["smollm2", "qwen3", "qwen2"])
def test_greedy_equals_peft(tmp_path: Path, family: Family) -> None:
    make_model = partial(make_tiny_transformer, family)
    runner = load_on_gpu(make_tiny_model(tmp_path / "base", family), "float32", max_loras=3)
    models = [make_model()]
    for number, (name, settings) in enumerate(SETTINGS.items(), 1):
        folder = make_tiny_adapter(tmp_path / name, make_model, **settings)
        runner.load_adapter(number, str(folder))
        models.append(with_adapter(make_model(), folder))
    for slots in ([0, 1, 2, 3], [3, 3, 0, 1], [0, 0, 0, 0]):
        for tokens, slot in zip(generate(runner, slots), slots, strict=True):
            with torch.inference_mode():
                logits = models[slot](torch.tensor([tokens[:-1]])).logits[0, -NUM_NEW_TOKENS:]
            chosen = logits.gather(1, torch.tensor(tokens[-NUM_NEW_TOKENS:])[:, None])[:, 0]
            assert (logits.max(-1).values - chosen < 1e-3).all()


def test_the_base_model_s_tokens_do_not_change_beside_adapters(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "base")
    adapter = make_tiny_adapter(
        tmp_path / "adapter", partial(make_tiny_transformer, "smollm2"), **SETTINGS["wide"]
    )
    plain = generate(load_on_gpu(folder, "bfloat16", max_loras=0), [0] * 4)
    runner = load_on_gpu(folder, "bfloat16", max_loras=1)
    runner.load_adapter(1, str(adapter))
    assert generate(runner, [0] * 4) == plain
    mixed = generate(runner, [1, 0, 1, 0])
    assert mixed[0] != plain[0]
