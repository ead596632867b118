"""BERT: an encoder. Every token sees the whole sequence, so nothing is cached and nothing is generated."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from engine.layers.linear import Linear
from engine.models.decoder import Embedding

if TYPE_CHECKING:
    from torch import Tensor

    from engine.encoder_batch import EncoderInputs, Group
    from engine.encoder_config import EncoderConfig
    from engine.precision import Precision


class LayerNorm(nn.Module):
    """Normalises the last dimension to mean 0 and variance 1, then scales and shifts it."""

    def __init__(self, config: EncoderConfig, precision: Precision) -> None:
        super().__init__()
        self._epsilon = config.norm_epsilon
        weight, bias = torch.empty(2, config.hidden_size, dtype=precision.activations)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [num_tokens, hidden_size]."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self._epsilon)


class BertEmbeddings(nn.Module):
    """The sum of what stands for a token, for its position, and for the first of two texts."""

    def __init__(self, config: EncoderConfig, precision: Precision) -> None:
        super().__init__()
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size, precision)
        self.position_embeddings = Embedding(config.max_position, config.hidden_size, precision)
        self.token_type_embeddings = Embedding(config.num_token_types, config.hidden_size, precision)
        self.LayerNorm = LayerNorm(config, precision)

    def forward(self, inputs: EncoderInputs) -> Tensor:
        """Look up the tokens; returns [num_tokens, hidden_size]."""
        words: Tensor = self.word_embeddings(inputs.token_ids)
        types: Tensor = self.token_type_embeddings(torch.zeros_like(inputs.token_ids))
        embedded: Tensor = self.LayerNorm(words + types + self.position_embeddings(inputs.positions))
        return embedded


class BertSelfAttention(nn.Module):
    """Attention without a mask but for padding."""

    def __init__(self, config: EncoderConfig, precision: Precision) -> None:
        super().__init__()
        self._num_heads = config.num_heads
        parts = dict.fromkeys(("query", "key", "value"), config.hidden_size)
        self.qkv = Linear(config.hidden_size, parts, bias=True, precision=precision)

    def forward(self, x: Tensor, inputs: EncoderInputs) -> Tensor:
        """Attend with x [num_tokens, hidden_size]; returns the same shape."""
        qkv = self.qkv(x).unflatten(-1, (3, self._num_heads, -1))
        return torch.cat([self._attend(qkv, group) for group in inputs.groups])

    @staticmethod
    def _attend(qkv: Tensor, group: Group) -> Tensor:
        q, k, v = group.pad(qkv).permute(2, 0, 3, 1, 4)  # each [num_seqs, num_heads, length, head_dim]
        output = functional.scaled_dot_product_attention(q, k, v, attn_mask=group.mask)
        return group.unpad(output.transpose(1, 2)).flatten(1)


class BertOutput(nn.Module):
    """A projection that is added to the residual stream and normalised with it."""

    def __init__(self, in_features: int, config: EncoderConfig, precision: Precision) -> None:
        super().__init__()
        self.linear = Linear(in_features, {"dense": config.hidden_size}, bias=True, precision=precision)
        self.LayerNorm = LayerNorm(config, precision)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Project x [num_tokens, in_features] on to the residual [num_tokens, hidden_size]."""
        output: Tensor = self.LayerNorm(self.linear(x) + residual)
        return output


class BertAttention(nn.Module):
    """Attention and its output."""

    def __init__(self, config: EncoderConfig, precision: Precision) -> None:
        super().__init__()
        self.self = BertSelfAttention(config, precision)
        self.output = BertOutput(config.hidden_size, config, precision)

    def forward(self, x: Tensor, inputs: EncoderInputs) -> Tensor:
        """Attend with x [num_tokens, hidden_size]; returns the same shape."""
        output: Tensor = self.output(self.self(x, inputs), x)
        return output


class BertIntermediate(nn.Module):
    """The wide half of the MLP."""

    def __init__(self, config: EncoderConfig, precision: Precision) -> None:
        super().__init__()
        self.linear = Linear(
            config.hidden_size, {"dense": config.intermediate_size}, bias=True, precision=precision
        )
        self._activation = config.activation

    def forward(self, x: Tensor) -> Tensor:
        """Map x [num_tokens, hidden_size] to [num_tokens, intermediate_size]."""
        wide: Tensor = self.linear(x)
        if self._activation == "relu":
            return functional.relu(wide)
        return functional.gelu(wide, approximate="tanh" if self._activation == "gelu_new" else "none")


class BertLayer(nn.Module):
    """Attention and MLP, each followed by its norm."""

    def __init__(self, config: EncoderConfig, precision: Precision) -> None:
        super().__init__()
        self.attention = BertAttention(config, precision)
        self.intermediate = BertIntermediate(config, precision)
        self.output = BertOutput(config.intermediate_size, config, precision)

    def forward(self, x: Tensor, inputs: EncoderInputs) -> Tensor:
        """Run on x [num_tokens, hidden_size]; returns the same shape."""
        attended: Tensor = self.attention(x, inputs)
        output: Tensor = self.output(self.intermediate(attended), attended)
        return output


class BertEncoder(nn.Module):
    """The layers."""

    def __init__(self, config: EncoderConfig, precision: Precision) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config, precision) for _ in range(config.num_layers))


class BertModel(nn.Module):
    """The BERT architecture.

    Modules are named as in transformers' checkpoints. Build it under `torch.device`, load the weights,
    then `prepare` it.
    """

    unused_weights = re.compile(r"embeddings\.position_ids|pooler\.dense\.(weight|bias)")
    """What checkpoints hold for other uses."""

    def __init__(self, config: EncoderConfig, precision: Precision) -> None:
        super().__init__()
        self.config = config
        self.embeddings = BertEmbeddings(config, precision)
        self.encoder = BertEncoder(config, precision)

    def prepare(self) -> None:
        """Make ready to run, once the weights are there."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.prepare()

    def forward(self, inputs: EncoderInputs) -> Tensor:
        """Run whole sequences; returns hidden states [num_tokens, hidden_size]."""
        x: Tensor = self.embeddings(inputs)
        for layer in self.encoder.layer:
            x = layer(x, inputs)
        return x
