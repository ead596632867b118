"""Small random decoders of families that have no page of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import transformers
from tiny_model import END_OF_TEXT_ID, IM_END_ID, IM_START_ID, MAX_POSITION, VOCAB_SIZE, write_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

WINDOW = 12
_ALTERNATING = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_GROUPED = {"num_key_value_heads": 2}
_EXPERTS = {"num_experts_per_tok": 2, "num_key_value_heads": 2}

DECODERS: dict[str, dict[str, Any]] = {
    "cohere": _GROUPED | {"logit_scale": 0.25},
    "cohere2": _GROUPED | _ALTERNATING,
    "gemma": {"num_key_value_heads": 1, "head_dim": 32},
    "gemma2": _GROUPED
    | _ALTERNATING
    | {"head_dim": 24, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 8.0},
    "gemma3_text": _GROUPED | _ALTERNATING | {"head_dim": 24, "query_pre_attn_scalar": 40},
    "glm4": _GROUPED | {"head_dim": 16, "partial_rotary_factor": 0.5},
    "gpt2": {},
    "gpt_neox": {"rotary_pct": 0.25, "use_parallel_residual": True},
    "gpt_oss": _EXPERTS | _ALTERNATING | {"head_dim": 16, "num_local_experts": 4},
    "granite": _GROUPED | {"logits_scaling": 4.0, "attention_multiplier": 0.1, "residual_multiplier": 0.5},
    "llama": _GROUPED | {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
    "mistral": _GROUPED | {"sliding_window": WINDOW},
    "mixtral": _EXPERTS | {"num_local_experts": 4},
    "olmo": _GROUPED | {"clip_qkv": 2.0},
    "olmo2": _GROUPED,
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 32},
    "phi": {"partial_rotary_factor": 0.5},
    "phi3": _GROUPED | {"sliding_window": WINDOW},
    "qwen2_moe": _EXPERTS | {"num_experts": 4, "moe_intermediate_size": 32},
    "smollm3": _GROUPED | {"no_rope_layers": [1, 0]},
    "stablelm": _GROUPED | {"partial_rotary_factor": 0.25, "use_qkv_bias": True},
    "starcoder2": _GROUPED | {"sliding_window": WINDOW},
}


def make_tiny_decoder(folder: Path, model_type: str, **config: Any) -> Path:
    """Write config, weights and tokenizer into `folder`, and return it. `config` overrides fields."""
    make_tiny_decoder_model(model_type, **config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def make_tiny_decoder_model(model_type: str, **config: Any) -> Any:
    """Return a random model as transformers builds it, in float32."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_POSITION,
        "bos_token_id": IM_START_ID,
        "eos_token_id": IM_END_ID,
        "pad_token_id": END_OF_TEXT_ID,
    }
    untyped: Any = transformers
    fields = sizes | DECODERS.get(model_type, {}) | config
    theirs = untyped.AutoConfig.for_model(model_type, **fields)
    model = untyped.AutoModelForCausalLM.from_config(theirs)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = 0.2 * torch.randn(parameter.shape, generator=generator)
            is_norm = parameter.dim() == 1 and not name.endswith("bias")
            parameter.copy_(1 + noise if is_norm else noise)
    return model.eval()
