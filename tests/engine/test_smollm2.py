"""The default model, against transformers with the same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from hand_plans import HandPlans, load_runner

from engine.gguf import GGUFFile
from engine.model_config import ModelConfig

if TYPE_CHECKING:
    from pathlib import Path

    from engine.model_runner import ModelRunner

# The chat template's rendering of "What is the capital of France?".
CAPITAL_OF_FRANCE = [
    *(1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712),
    *(8182, 2, 198, 1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198),
]
# "The capital of France is Paris.<|im_end|>"
PARIS = [504, 3575, 282, 4649, 314, 7042, 30, 2]
CATS = [788, 216, 33, 41, 41, 40, 28, 216, 35, 28, 33, 36, 33, 7680, 30]


@pytest.fixture(scope="module")
def runner(smollm2_path: Path) -> ModelRunner:
    return load_runner(smollm2_path, block_size=16)


def load_transformer(path: Path) -> Any:
    config = ModelConfig.load(path)
    make_config: Any = transformers.LlamaConfig
    theirs = make_config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        max_position_embeddings=config.max_position,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model: Any = transformers.LlamaForCausalLM(theirs)
    rotary: Any = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding
    model.model.rotary_emb = rotary(theirs)
    weights = dict(GGUFFile.open(path).weights())
    model.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]}, assign=True)
    return model.eval()


def test_config(smollm2_path: Path) -> None:
    config = ModelConfig.load(smollm2_path)
    assert config.rope.theta == 100000.0
    assert config.norm_epsilon == 1e-5
    assert config.tie_word_embeddings
    assert config.max_position == 8192


def test_knows_the_capital_of_france(runner: ModelRunner) -> None:
    plans = HandPlans(runner)
    row = plans.admit(CAPITAL_OF_FRANCE)
    for _ in PARIS:
        plans.step([row])
    assert plans.tokens[row][len(CAPITAL_OF_FRANCE) :] == PARIS
    plans.finish()


def test_greedy_equals_transformers(runner: ModelRunner, smollm2_path: Path) -> None:
    prompts = [CATS, CAPITAL_OF_FRANCE[:30]]
    plans = HandPlans(runner)
    rows = [plans.admit(prompt) for prompt in prompts]
    plans.step({rows[0]: 6, rows[1]: 17})
    for _ in range(16):
        plans.step(rows)
    plans.finish()
    model = load_transformer(smollm2_path)
    for row, prompt in zip(rows, prompts, strict=True):
        tokens = plans.tokens[row]
        with torch.inference_mode():
            expected = model(torch.tensor([tokens[:-1]])).logits[0].argmax(-1).tolist()
        assert tokens[len(prompt) :] == expected[len(prompt) - 1 :]
