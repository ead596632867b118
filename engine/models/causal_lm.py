"""What the engine asks of a model, whoever computes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from engine.decoder_config import DecoderConfig
    from engine.forward_inputs import ForwardInputs
    from engine.kv_cache import LayerCache


class KVSizes(Protocol):
    """What a token leaves in the KV cache."""

    @property
    def num_layers(self) -> int:
        """Layers that have a cache."""

    @property
    def num_kv_heads(self) -> int:
        """Key and value heads of each."""

    @property
    def head_dim(self) -> int:
        """Size of each."""


class CausalLM(nn.Module, ABC):
    """A decoder and its output layer. Load its weights, then `prepare` it.

    Args:
        config: what the model is.
        activations: type of hidden states and logits.
    """

    is_capturable: ClassVar[bool]
    """Whether its passes launch the same kernels each time and never wait for the device, as a graph must."""

    def __init__(self, config: DecoderConfig, activations: torch.dtype) -> None:
        super().__init__()
        self.config = config
        self._activations = activations

    @abstractmethod
    def prepare(self) -> None:
        """Make ready to run, once the weights are there."""

    @property
    @abstractmethod
    def kv_sizes(self) -> KVSizes:
        """What a token leaves in the KV cache; known once the model is prepared."""

    @abstractmethod
    def forward(self, inputs: ForwardInputs, caches: Sequence[LayerCache]) -> Tensor:
        """Run a step; returns hidden states [num_tokens, hidden_size]."""

    @abstractmethod
    def project(self, hidden: Tensor) -> Tensor:
        """Map hidden states [num_rows, hidden_size] to logits [num_rows, vocab_size] in their own type."""

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states [num_rows, hidden_size] to logits [num_rows, vocab_size] in float32."""
        return self.project(hidden).float()

    def write_logits(self, hidden: Tensor, out: Tensor) -> Tensor:
        """Map hidden states [num_rows, hidden_size] to `out` [num_rows, vocab_size], and return it."""
        return out.copy_(self.project(hidden))

    def empty_logits(self, num_rows: int) -> Tensor:
        """Return memory for logits [num_rows, vocab_size] in the type of activations."""
        device = next(self.parameters()).device
        return torch.empty(num_rows, self.config.vocab_size, dtype=self._activations, device=device)
