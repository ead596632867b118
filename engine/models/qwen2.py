"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values, which its config switches on."""

from __future__ import annotations

from engine.models.decoder import PagedDecoder
from engine.models.llama import LlamaAttention


class Qwen2ForCausalLM(PagedDecoder):
    """The Qwen2 architecture."""

    attention = LlamaAttention
