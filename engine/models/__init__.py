"""The model families, and the registry that finds them by the name in config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.models.llama import LlamaForCausalLM
from engine.models.qwen2 import Qwen2ForCausalLM
from engine.models.qwen3 import Qwen3ForCausalLM

if TYPE_CHECKING:
    from engine.models.decoder import PagedDecoder

MODELS: dict[str, type[PagedDecoder]] = {
    "LlamaForCausalLM": LlamaForCausalLM,
    "MistralForCausalLM": LlamaForCausalLM,
    "Qwen2ForCausalLM": Qwen2ForCausalLM,
    "Qwen3ForCausalLM": Qwen3ForCausalLM,
}
