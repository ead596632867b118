"""Makes small random LoRA adapters with peft, and says what peft makes of them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import peft
import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ATTENTION = ["q_proj", "v_proj"]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SETTINGS: dict[str, dict[str, Any]] = {
    "small": {"r": 4, "lora_alpha": 12, "target_modules": ATTENTION},
    "wide": {
        "r": 8,
        "lora_alpha": 8,
        "use_rslora": True,
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 12, r"layers\.1\.mlp\.up_proj": 3},
        "alpha_pattern": {"down_proj": 20},
    },
    "upper": {"r": 16, "lora_alpha": 16, "target_modules": ALL, "layers_to_transform": [1]},
}
"""Three adapters that differ in rank, scale and what they change."""


def make_tiny_adapter(folder: Path, make_model: Callable[[], Any], *, seed: int = 1, **settings: Any) -> Path:
    """Write a random adapter for a model of transformers into `folder`, and return it.

    `settings` are fields of peft's LoraConfig.
    """
    untyped: Any = peft
    config = untyped.LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.1, **settings)
    with warnings.catch_warnings(action="ignore"):  # peft calls what this transformers calls old
        model = untyped.get_peft_model(make_model(), config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


def with_adapter(model: Any, folder: Path) -> Any:
    """Return the model of transformers with an adapter, as peft runs it."""
    untyped: Any = peft
    with warnings.catch_warnings(action="ignore"):
        return untyped.PeftModel.from_pretrained(model, folder).eval()
