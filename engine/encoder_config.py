"""What an encoder is, as its folder's config.json says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ENCODERS = ("BertModel",)
ACTIVATIONS = ("gelu", "gelu_new", "relu")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Sizes and constants of an encoder."""

    architecture: str
    """One of ENCODERS."""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    max_position: int
    """Longest sequence, in tokens."""
    num_token_types: int
    norm_epsilon: float
    activation: str
    """One of ACTIVATIONS."""
    dtype: str
    """Of the weights as published: float32, bfloat16 or float16."""

    @staticmethod
    def find(path: Path) -> EncoderConfig | None:
        """Read the config of a model folder; None where no encoder lies there.

        Raises:
            ModelLoadError: it is an encoder, and its config is malformed or of a kind that is not supported.
        """
        file = path / "config.json"
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None  # `ModelConfig` says what is wrong
        names = fields.get("architectures") if isinstance(fields, dict) else None
        if not isinstance(names, list) or not set(names) & set(ENCODERS):
            return None
        try:
            return _from_hf(fields)
        except KeyError as error:
            raise ModelLoadError(f"{file}: the field {error} is missing") from error
        except (TypeError, ValueError) as error:
            raise ModelLoadError(f"{file}: {error}") from error


def _from_hf(fields: Mapping[str, Any]) -> EncoderConfig:
    positions = fields.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise ValueError(f"the position embedding {positions!r} is not supported, only 'absolute'")
    if fields.get("is_decoder"):
        raise ValueError("an encoder that runs as a decoder is not supported")
    activation = fields.get("hidden_act", "gelu")
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"the activation {activation!r} is not supported; supported are {', '.join(ACTIVATIONS)}"
        )
    dtype = str(fields.get("dtype") or fields.get("torch_dtype") or "float32").removeprefix("torch.")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"the dtype {dtype!r} is not supported, only float32, bfloat16 and float16")
    config = EncoderConfig(
        architecture=next(name for name in fields["architectures"] if name in ENCODERS),
        vocab_size=int(fields["vocab_size"]),
        hidden_size=int(fields["hidden_size"]),
        intermediate_size=int(fields["intermediate_size"]),
        num_layers=int(fields["num_hidden_layers"]),
        num_heads=int(fields["num_attention_heads"]),
        max_position=int(fields["max_position_embeddings"]),
        num_token_types=int(fields.get("type_vocab_size", 2)),
        norm_epsilon=float(fields.get("layer_norm_eps", 1e-12)),
        activation=activation,
        dtype=dtype,
    )
    sizes = (config.num_layers, config.num_heads, config.max_position, config.num_token_types)
    if min(sizes) < 1 or config.hidden_size % config.num_heads:
        raise ValueError(f"sizes do not fit together: {config}")
    return config
