"""Makes a small random BERT, as a folder that a hub would hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers

if TYPE_CHECKING:
    from pathlib import Path

MAX_POSITION = 64
VOCAB_SIZE = 99


def make_tiny_bert(folder: Path, **config: Any) -> Any:
    """Write a random BERT into `folder`, and return it as transformers has it."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_POSITION,
    }
    model: Any = transformers.BertModel(transformers.BertConfig(**(sizes | config)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "LayerNorm.weight" in name else 0.3 * noise)
    model.save_pretrained(folder)
    return model.eval()


def random_ids(length: int, seed: int = 0) -> list[int]:
    return list(np.random.default_rng((length, seed)).integers(0, VOCAB_SIZE, length).tolist())
