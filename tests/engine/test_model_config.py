from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from tiny_model import FAMILIES, make_tiny_model

from engine.errors import ModelLoadError
from engine.layers.rotary import cos_sin_table
from engine.model_config import ARCHITECTURES, GGUF_ARCHITECTURES, ModelConfig, from_hf
from engine.models import MODELS

if TYPE_CHECKING:
    from pathlib import Path

    from tiny_model import Family

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
}
LLAMA3_SCALING = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def test_old_and_new_spelling_are_equal() -> None:
    old = LLAMA | {
        "rope_theta": 5e5,
        "torch_dtype": "bfloat16",
        "rope_scaling": LLAMA3_SCALING | {"rope_type": "llama3"},
    }
    new = LLAMA | {
        "dtype": "bfloat16",
        "rope_parameters": LLAMA3_SCALING | {"rope_type": "llama3", "rope_theta": 5e5},
    }
    assert from_hf(old) == from_hf(new)
    assert from_hf(new).rope.theta == 5e5
    assert from_hf(new).dtype == "bfloat16"


def test_defaults_are_those_of_transformers() -> None:
    config = from_hf(LLAMA)
    assert (config.num_kv_heads, config.head_dim, config.rope.theta) == (4, 16, 10000.0)
    assert not any((config.tie_word_embeddings, config.qkv_bias, config.output_bias, config.mlp_bias))
    qwen2 = from_hf(LLAMA | {"architectures": ["Qwen2ForCausalLM"]})
    assert qwen2.qkv_bias
    assert not qwen2.output_bias


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        {"rope_type": "default"},
        {"type": "linear", "factor": 4.0},
        LLAMA3_SCALING | {"rope_type": "llama3"},
    ],
)
def test_rotation_equals_transformers(scaling: dict[str, Any] | None) -> None:
    make_config: Any = transformers.LlamaConfig
    config = from_hf(LLAMA | {"rope_theta": 100000.0, "rope_scaling": scaling})
    theirs = make_config(**LLAMA, rope_theta=100000.0, rope_scaling=scaling)
    rotary: Any = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(theirs)
    cos, sin = rotary(torch.zeros(1), torch.arange(128)[None])
    table = cos_sin_table(config.rope, config.head_dim, 128)
    torch.testing.assert_close(table, torch.cat((cos[0, :, :8], sin[0, :, :8]), -1), atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM.*LlamaForCausalLM, MistralForCausalLM"),
        ({"architectures": None}, "architecture"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "'yarn'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"dtype": "float8_e4m3fn"}, "float8_e4m3fn"),
        ({"hidden_size": "many"}, "many"),
        ({"num_key_value_heads": 3}, "do not fit together"),
        ({"quantization_config": {"quant_method": "awq"}}, "'awq'"),
    ],
)
def test_refuses_what_it_cannot_run(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | change), encoding="utf-8")
    with pytest.raises(ModelLoadError, match=message):
        ModelConfig.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"architectures": ["LlamaForCausalLM"]}', "\x00"])
def test_refuses_a_malformed_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        ModelConfig.load(tmp_path)


def test_refuses_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        ModelConfig.load(tmp_path)


def test_a_sliding_window_bounds_the_length() -> None:
    config = from_hf(LLAMA | {"architectures": ["MistralForCausalLM"], "sliding_window": 32})
    assert config.max_model_len(None) == 32
    assert config.max_model_len(20) == 20
    with pytest.raises(ModelLoadError, match=r"33.*sliding window of 32"):
        config.max_model_len(33)


def test_a_window_that_is_switched_off_does_not_count() -> None:
    qwen = LLAMA | {"architectures": ["Qwen3ForCausalLM"], "sliding_window": 32}
    assert from_hf(qwen).sliding_window is None
    assert from_hf(qwen | {"use_sliding_window": True}).sliding_window == 32
    layers = {"use_sliding_window": True, "layer_types": ["full_attention", "full_attention"]}
    assert from_hf(qwen | layers).sliding_window is None


def test_a_length_beyond_the_context_is_refused() -> None:
    with pytest.raises(ModelLoadError, match=r"129.*context length of 128"):
        from_hf(LLAMA).max_model_len(129)


@pytest.mark.parametrize("family", FAMILIES)
def test_reads_what_transformers_writes(tmp_path: Path, family: Family) -> None:
    config = ModelConfig.load(make_tiny_model(tmp_path, family, dtype="bfloat16"))
    auto: Any = transformers.AutoConfig
    theirs = auto.from_pretrained(tmp_path)
    assert config.architecture == theirs.architectures[0]
    assert config.norm_epsilon == theirs.rms_norm_eps
    assert config.rope.theta == theirs.rope_parameters["rope_theta"]
    assert config.tie_word_embeddings == theirs.tie_word_embeddings
    assert config.dtype == "bfloat16"


def test_each_supported_architecture_has_a_model() -> None:
    assert set(MODELS) == set(ARCHITECTURES) >= set(GGUF_ARCHITECTURES.values())
