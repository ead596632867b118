"""Weights and caches of eight bits: near the model's own answers, by either way of computing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hand_plans import HandPlans, load_runner
from tiny_model import make_tiny_model

from engine.messages import SamplingParams

if TYPE_CHECKING:
    from pathlib import Path

    from engine.config import ModelImplementation

PROMPT = [5, 17, 200, 42, 9, 77, 131, 250, 33, 8, 120, 64]
SAMPLING = SamplingParams(max_tokens=1, temperature=0.0, num_prompt_logprobs=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"), "qwen3", hidden_size=128, head_dim=32)


def logprobs(folder: Path, **settings: Any) -> torch.Tensor:
    """Of the prompt's tokens, computed in two chunks."""
    plans = HandPlans(load_runner(folder, **settings))
    row = plans.admit(PROMPT, sampling=SAMPLING)
    entries = [*plans.step({row: 5}).prompt_logprobs[row], *plans.step([row]).prompt_logprobs[row]]
    return torch.tensor([entry.logprob for entry in entries])


@pytest.mark.parametrize("model_impl", ["auto", "transformers"])
@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({"quantization": "fp8"}, 0.6),
        ({"kv_cache_dtype": "fp8"}, 0.2),
        ({"quantization": "fp8", "kv_cache_dtype": "fp8"}, 0.7),
    ],
    ids=["weights", "cache", "both"],
)
def test_answers_stay_near(
    folder: Path, settings: dict[str, Any], most: float, model_impl: ModelImplementation
) -> None:
    exact = logprobs(folder, model_impl=model_impl)
    rounded = logprobs(folder, model_impl=model_impl, **settings)
    errors = (rounded - exact).abs() / exact.std()
    assert 0 < errors.mean() < most / 3
    assert errors.max() < most


def test_eight_bits_halve_what_a_step_reads(folder: Path) -> None:
    wide, narrow = (
        load_runner(folder).info,
        load_runner(folder, quantization="fp8", kv_cache_dtype="fp8").info,
    )
    assert narrow.kv_bytes_per_token * 4 == wide.kv_bytes_per_token
    assert narrow.num_step_weights == wide.num_step_weights
    head_bytes = 300 * 128 * 4
    assert (narrow.step_weight_bytes - head_bytes) * 4 == wide.step_weight_bytes - head_bytes


def test_one_sequence_or_several(folder: Path) -> None:
    """A row is rounded by itself, so its neighbours change nothing."""
    plans = HandPlans(load_runner(folder, quantization="fp8", kv_cache_dtype="fp8"))
    alone = plans.step_once(PROMPT)
    plans.finish()
    assert plans.step_once(PROMPT, PROMPT[3:], PROMPT[:2])[0] == alone[0]
