"""What a model is, as its folder's config.json or its .gguf file says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.decoder_config import LARGEST_SIZE, MAX_LAYERS, DecoderConfig, NoPageError, known_dtype
from engine.errors import ModelLoadError
from engine.gguf import GGUFFile
from engine.rope_config import RopeConfig, rope_from_gguf, rope_from_hf

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
GGUF_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(DecoderConfig):
    """Sizes and constants of a decoder that one of our pages computes."""

    architecture: str
    """One of ARCHITECTURES."""
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_epsilon: float
    rope: RopeConfig
    sliding_window: int | None
    """Tokens that attention sees at most; None sees all."""
    tie_word_embeddings: bool
    """Whether the output layer is the embedding table."""
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool

    @staticmethod
    def load(path: Path) -> ModelConfig:
        """Read the config of a model folder or a .gguf file.

        Raises:
            NoPageError: the model is of a kind that our pages do not compute.
            ModelLoadError: the config is missing or malformed.
        """
        if path.is_file():
            return _from_gguf(path)
        return _from_folder(path)

    @property
    def length_limit(self) -> tuple[int, str]:
        """The longest sequence that can be served, in tokens, and what sets it.

        Our pages have no sliding window. A sequence that fits it is computed exactly, so that sets the limit.
        """
        if self.sliding_window is not None and self.sliding_window < self.max_position:
            return self.sliding_window, "sliding window"
        return self.max_position, "context length"


def _from_folder(folder: Path) -> ModelConfig:
    path = folder / "config.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelLoadError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelLoadError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ModelLoadError(f"{path}: expected a JSON object")
    return _checked(path, lambda: from_hf(fields))


def _from_gguf(path: Path) -> ModelConfig:
    file = GGUFFile.open(path)
    return _checked(path, lambda: from_gguf(file))


def _checked(path: Path, make: Callable[[], ModelConfig]) -> ModelConfig:
    """Build a config, turning missing and mistyped fields into errors that name the file."""
    try:
        config = make()
    except NoPageError as error:
        raise NoPageError(f"{path}: {error}") from error
    except KeyError as error:
        raise ModelLoadError(f"{path}: the field {error} is missing") from error
    except (ArithmeticError, AttributeError, TypeError, ValueError) as error:
        raise ModelLoadError(f"{path}: {error}") from error
    sizes = (
        config.num_layers,
        config.num_heads,
        config.num_kv_heads,
        config.head_dim,
        config.hidden_size,
        config.intermediate_size,
        config.vocab_size,
    )
    is_odd = config.num_kv_heads < 1 or config.num_heads % config.num_kv_heads or config.head_dim % 2
    is_huge = max(sizes) > LARGEST_SIZE or config.num_layers > MAX_LAYERS
    if min(sizes) < 1 or is_odd or is_huge:
        raise ModelLoadError(f"{path}: sizes do not fit together: {config}")
    return config


def from_hf(fields: Mapping[str, Any]) -> ModelConfig:
    """Read the fields of a config.json, in the spelling of transformers 4 or 5.

    Raises:
        KeyError: a field without a default is missing.
        NoPageError: the model needs something that our pages do not compute.
        ValueError: a value is malformed.
    """
    architecture = _hf_architecture(fields)
    activation = fields.get("hidden_act", "silu")
    if activation != "silu":
        raise NoPageError(f"the activation {activation!r} is not supported, only 'silu'")
    if fields.get("quantization_config"):
        method = fields["quantization_config"].get("quant_method")
        raise ValueError(f"weights quantised by {method!r} are not supported")
    is_qwen2 = architecture == "Qwen2ForCausalLM"
    attention_bias = is_qwen2 or bool(fields.get("attention_bias", False))
    hidden_size, num_heads = int(fields["hidden_size"]), int(fields["num_attention_heads"])
    head_dim = int(fields.get("head_dim") or hidden_size // num_heads)
    max_position = int(fields["max_position_embeddings"])
    return ModelConfig(
        architecture=architecture,
        vocab_size=int(fields["vocab_size"]),
        hidden_size=hidden_size,
        intermediate_size=int(fields["intermediate_size"]),
        num_layers=int(fields["num_hidden_layers"]),
        num_heads=num_heads,
        num_kv_heads=int(fields.get("num_key_value_heads") or num_heads),
        head_dim=head_dim,
        norm_epsilon=float(fields["rms_norm_eps"]),
        rope=rope_from_hf(fields, head_dim, max_position),
        max_position=max_position,
        sliding_window=_sliding_window(architecture, fields),
        tie_word_embeddings=bool(fields.get("tie_word_embeddings", False)),
        qkv_bias=attention_bias,
        output_bias=attention_bias and not is_qwen2,
        mlp_bias=bool(fields.get("mlp_bias", False)),
        dtype=known_dtype(fields.get("dtype") or fields.get("torch_dtype") or "float32"),
    )


def _hf_architecture(fields: Mapping[str, Any]) -> str:
    names = fields.get("architectures") or []
    known = [name for name in names if name in ARCHITECTURES]
    if not known:
        raise NoPageError(
            f"no page of ours computes {', '.join(names) or 'a model without architectures'}; "
            f"there are {', '.join(ARCHITECTURES)}"
        )
    return str(known[0])


def _sliding_window(architecture: str, fields: Mapping[str, Any]) -> int | None:
    """Return the window if any layer has one. Defaults are those of transformers' config classes."""
    is_mistral = architecture == "MistralForCausalLM"
    window = fields.get("sliding_window", 4096 if is_mistral else None)
    layer_types = fields.get("layer_types")
    if window is None or not fields.get("use_sliding_window", is_mistral):
        return None
    if layer_types is not None and "sliding_attention" not in layer_types:
        return None
    return int(window)


def from_gguf(file: GGUFFile) -> ModelConfig:
    """Read the metadata of a GGUF file; its list of tensors tells what they leave out.

    Raises:
        KeyError: a field without a default is missing.
        ValueError: the model needs something that is not supported.
    """
    family = file.metadata["general.architecture"]
    if family not in GGUF_ARCHITECTURES:
        raise ValueError(
            f"the GGUF architecture {family!r} is not supported; "
            f"supported are {', '.join(GGUF_ARCHITECTURES)}"
        )
    fields = {
        key.removeprefix(f"{family}."): value
        for key, value in file.metadata.items()
        if key.startswith(f"{family}.")
    }
    if int(fields.get("expert_count", 0)) > 0:
        raise ValueError("mixtures of experts are not supported")
    hidden_size, num_heads = int(fields["embedding_length"]), int(fields["attention.head_count"])
    head_dim = int(fields.get("attention.key_length", hidden_size // num_heads))
    if int(fields.get("attention.value_length", head_dim)) != head_dim:
        raise ValueError("keys and values of different sizes are not supported")
    return ModelConfig(
        architecture=GGUF_ARCHITECTURES[family],
        vocab_size=file.tensors["token_embd.weight"].shape[0],
        hidden_size=hidden_size,
        intermediate_size=int(fields["feed_forward_length"]),
        num_layers=int(fields["block_count"]),
        num_heads=num_heads,
        num_kv_heads=int(fields.get("attention.head_count_kv", num_heads)),
        head_dim=head_dim,
        norm_epsilon=_shortest_float(fields["attention.layer_norm_rms_epsilon"]),
        rope=rope_from_gguf(fields, head_dim, file.frequency_divisors()),
        max_position=int(fields["context_length"]),
        sliding_window=fields.get("attention.sliding_window"),
        tie_word_embeddings="output.weight" not in file.tensors,
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        output_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_up.bias" in file.tensors,
        dtype=file.dtype,
    )


def _shortest_float(value: float) -> float:
    """Undo the file's rounding to float32: 9.999999747378752e-06 was 1e-05."""
    return float(f"{value:.7g}")
