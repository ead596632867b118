"""Makes small random models of each family, as folders that a hub would hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

if TYPE_CHECKING:
    from pathlib import Path

_logging: Any = transformers.utils.logging
_logging.disable_progress_bar()

Family = Literal["llama2", "llama3", "mistral", "smollm2", "qwen2", "qwen3"]
FAMILIES: tuple[Family, ...] = ("llama2", "llama3", "mistral", "smollm2", "qwen2", "qwen3")

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
END_OF_TEXT_ID, IM_START_ID, IM_END_ID = 0, 1, 2
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VOCAB_SIZE = 300
MAX_POSITION = 512

_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_CONFIGS: dict[Family, tuple[str, dict[str, Any]]] = {
    "llama2": ("llama", {"num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "llama3": ("llama", {"num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_parameters": _LLAMA3_ROPE}),
    "mistral": ("mistral", {"num_key_value_heads": 1, "head_dim": 24, "sliding_window": None}),
    "smollm2": ("llama", {"num_key_value_heads": 2, "tie_word_embeddings": True, "rope_theta": 100000.0}),
    "qwen2": ("qwen2", {"num_key_value_heads": 2, "rope_theta": 1000000.0}),
    "qwen3": ("qwen3", {"num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True}),
}


def make_tiny_model(
    folder: Path, family: Family = "smollm2", *, seed: int = 0, dtype: str = "float32", **config: Any
) -> Path:
    """Write config, weights, tokenizer and generation defaults into `folder`, and return it.

    The weights are random, but far enough from degenerate that greedy outputs have no near ties.
    `config` overrides fields of the transformers config.
    """
    model = make_tiny_transformer(family, seed=seed, **config)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def make_tiny_transformer(family: Family, *, seed: int = 0, **config: Any) -> Any:
    """Return a random model of the family as transformers builds it, in float32."""
    model_type, fields = _CONFIGS[family]
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
    auto: Any = transformers.AutoModelForCausalLM
    model = auto.from_config(transformers.AutoConfig.for_model(model_type, **(sizes | fields | config)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name
            parameter.copy_(1 + 0.2 * noise if is_norm else 0.2 * noise)
    return model.eval()


def make_tokenizer() -> Tokenizer:
    """Return a byte-level BPE tokenizer of VOCAB_SIZE tokens with ChatML's special tokens first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT, IM_START, IM_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = "the capital of France is Paris and the model answers user and assistant in the system "
    tokenizer.train_from_iterator([corpus * 4 + " ".join(corpus.split()[::-1])], trainer)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE, tokenizer.get_vocab_size()
    return tokenizer


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json, with a chat template, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": IM_START,
        "eos_token": IM_END,
        "pad_token": END_OF_TEXT,
        "model_max_length": MAX_POSITION,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
