"""The frame that all pages share: embedding, layers, final norm, output layer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import nn
from torch.nn import functional

from engine.layers.linear import Linear
from engine.layers.mlp import GatedMLP
from engine.layers.rms_norm import RMSNorm
from engine.layers.rotary import Rotary
from engine.models.causal_lm import CausalLM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.forward_inputs import ForwardInputs
    from engine.kv_cache import LayerCache
    from engine.model_config import ModelConfig
    from engine.precision import Precision


class MakeAttention(Protocol):
    """Constructor of a family's attention: a module from (x, inputs, cache) to the shape of x."""

    def __call__(self, config: ModelConfig, rotary: Rotary, precision: Precision) -> nn.Module:
        """Build one layer's attention."""


class Embedding(nn.Module):
    """The table of token embeddings."""

    def __init__(self, vocab_size: int, hidden_size: int, precision: Precision) -> None:
        super().__init__()
        table = torch.empty(vocab_size, hidden_size, dtype=precision.weights)
        self.weight = nn.Parameter(table, requires_grad=False)
        self._activations = precision.activations

    def forward(self, token_ids: Tensor) -> Tensor:
        """Look up token_ids [num_tokens]; returns [num_tokens, hidden_size]."""
        return functional.embedding(token_ids, self.weight).to(self._activations)


class DecoderLayer(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(
        self, config: ModelConfig, make_attention: MakeAttention, rotary: Rotary, precision: Precision
    ) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_epsilon, precision.activations)
        self.self_attn = make_attention(config, rotary, precision)
        self.post_attention_layernorm = RMSNorm(
            config.hidden_size, config.norm_epsilon, precision.activations
        )
        self.mlp = GatedMLP(config, precision)

    def forward(
        self, x: Tensor, residual: Tensor | None, inputs: ForwardInputs, cache: LayerCache
    ) -> tuple[Tensor, Tensor]:
        """Return (output of the MLP, residual stream without it), both [num_tokens, hidden_size].

        The sum is left to the next norm, which adds and normalises in one pass.
        """
        if residual is None:
            normed, residual = self.input_layernorm(x), x
        else:
            normed, residual = self.input_layernorm.add(x, residual)
        attended = self.self_attn(normed, inputs, cache)
        normed, residual = self.post_attention_layernorm.add(attended, residual)
        return self.mlp(normed), residual


class Decoder(nn.Module):
    """All but the output layer."""

    def __init__(
        self, config: ModelConfig, make_attention: MakeAttention, max_model_len: int, precision: Precision
    ) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size, precision)
        self.rotary = Rotary(config.rope, config.head_dim, max_model_len)
        self.layers = nn.ModuleList(
            DecoderLayer(config, make_attention, self.rotary, precision) for _ in range(config.num_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.norm_epsilon, precision.activations)

    def forward(self, inputs: ForwardInputs, caches: Sequence[LayerCache]) -> Tensor:
        """Run a step; returns hidden states [num_tokens, hidden_size]."""
        x: Tensor = self.embed_tokens(inputs.token_ids)
        residual = None
        for layer, cache in zip(self.layers, caches, strict=True):
            x, residual = layer(x, residual, inputs, cache)
        assert residual is not None
        return self.norm.add(x, residual)[0]


class PagedDecoder(CausalLM):
    """A decoder of ours and its output layer. A family names its attention.

    Modules are named as in transformers' checkpoints. Build it under `torch.device`.

    Args:
        config: the sizes.
        max_model_len: longest sequence, in tokens.
        precision: the types of tensors.
    """

    is_capturable = True
    config: ModelConfig
    attention: ClassVar[MakeAttention]

    def __init__(self, config: ModelConfig, max_model_len: int, precision: Precision) -> None:
        super().__init__(config, precision.activations)
        self.model = Decoder(config, type(self).attention, max_model_len, precision)
        head = replace(precision, quantized=None)
        self.output = Linear(config.hidden_size, {"lm_head": config.vocab_size}, bias=False, precision=head)
        if config.tie_word_embeddings:
            self.output.weight = self.model.embed_tokens.weight

    def prepare(self) -> None:
        """Make ready to run, once the weights are there."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.prepare()

    @property
    def kv_sizes(self) -> ModelConfig:
        """What a token leaves in the KV cache."""
        return self.config

    def forward(self, inputs: ForwardInputs, caches: Sequence[LayerCache]) -> Tensor:
        """Run a step; returns hidden states [num_tokens, hidden_size]."""
        hidden: Tensor = self.model(inputs, caches)
        return hidden

    def project(self, hidden: Tensor) -> Tensor:
        """Map hidden states [num_rows, hidden_size] to logits [num_rows, vocab_size] in their own type."""
        logits: Tensor = self.output(hidden)
        return logits

    def write_logits(self, hidden: Tensor, out: Tensor) -> Tensor:
        """Map hidden states [num_rows, hidden_size] to `out` [num_rows, vocab_size], and return it."""
        return self.output.write(hidden, out)
