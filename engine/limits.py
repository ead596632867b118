"""How much one engine does at once: what the config leaves open, its device decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.errors import ModelLoadError

if TYPE_CHECKING:
    from engine.config import Device, EngineConfig
    from engine.decoder_config import DecoderConfig


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes of batches and blocks, in sequences and tokens."""

    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int

    @staticmethod
    def choose(config: EngineConfig, model: DecoderConfig, device: torch.device) -> Limits:
        """Fill in the device's defaults.

        Raises:
            ModelLoadError: the model cannot run at the requested length.
        """
        is_cpu = device.type == "cpu"
        return Limits(
            block_size=config.block_size or (16 if is_cpu else 64),
            max_num_seqs=config.max_num_seqs or (64 if is_cpu else 256),
            max_num_batched_tokens=config.max_num_batched_tokens or (1024 if is_cpu else 8192),
            max_model_len=model.max_model_len(config.max_model_len),
        )

    @property
    def max_useful_blocks(self) -> int:
        """Blocks that all sequences together can fill."""
        return self.max_num_seqs * -(-self.max_model_len // self.block_size)


def choose_device(requested: Device) -> torch.device:
    """Return the device to run on.

    Raises:
        ModelLoadError: a GPU is requested and there is none.
    """
    available = torch.cuda.is_available()
    if requested == "cuda" and not available:
        raise ModelLoadError("device is cuda, but torch finds no CUDA device")
    return torch.device("cuda" if available and requested != "cpu" else "cpu")
