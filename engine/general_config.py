"""What transformers' config of a decoder says, for the models that none of our pages computes.

Refused here is what the paged cache cannot hold or what transformers would compute wrongly over it, as far as
the config tells; `engine/models/general_check.py` finds the rest when the model is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import transformers
from huggingface_hub.errors import StrictDataclassError

from engine.decoder_config import MAX_LAYERS, DecoderConfig, known_dtype
from engine.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ATTENTION_LAYERS = {"full_attention", "sliding_attention", "attention"}
LATENT_FIELDS = ("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim")
READING_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, StrictDataclassError)
"""What transformers raises for a folder that it cannot make sense of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneralConfig(DecoderConfig):
    """A decoder that transformers computes over our cache."""

    hf: Any
    """transformers' own config object."""
    longest_unscaled: int | None
    """Where its rotary embedding begins to depend on the longest sequence of a batch, in tokens."""

    @staticmethod
    def load(folder: Path) -> GeneralConfig:
        """Read the config of a model folder. No code of the folder is ever run.

        Raises:
            ModelLoadError: it is missing or malformed, or the model is of a kind that is not supported.
        """
        try:
            _check_is_known(folder)
            hf = transformers.AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            architecture = _architecture(hf)
            if reason := _refusal(hf):
                raise ValueError(f"{architecture} (model type {hf.model_type!r}) is not supported: {reason}")
            return _from_transformers(hf, architecture)
        except READING_ERRORS as error:
            raise ModelLoadError(f"{folder / 'config.json'}: {error}") from error

    @property
    def length_limit(self) -> tuple[int, str]:
        """The longest sequence that can be served, in tokens, and what sets it."""
        if self.longest_unscaled is not None and self.longest_unscaled < self.max_position:
            return self.longest_unscaled, "original context length, before its rotary embedding changes,"
        return self.max_position, "context length"


def _check_is_known(folder: Path) -> None:
    untyped: Any = transformers
    fields, _ = untyped.PreTrainedConfig.get_config_dict(folder, local_files_only=True)
    model_type = fields.get("model_type")
    if model_type not in untyped.CONFIG_MAPPING:
        hint = ", and code that comes with a model is never run" if "auto_map" in fields else ""
        raise ValueError(
            f"transformers {transformers.__version__} does not know the model type {model_type!r}{hint}"
        )


def _from_transformers(hf: Any, architecture: str) -> GeneralConfig:
    num_layers = getattr(hf, "num_hidden_layers", 0)
    if num_layers > MAX_LAYERS:
        raise ValueError(f"num_hidden_layers is {num_layers}; expected at most {MAX_LAYERS}")
    max_position = getattr(hf, "max_position_embeddings", None)
    if not isinstance(max_position, int) or max_position < 1:
        raise ValueError("max_position_embeddings is missing: how long a sequence may be is not known")
    return GeneralConfig(
        architecture=architecture,
        vocab_size=int(hf.vocab_size),
        hidden_size=int(hf.hidden_size),
        max_position=max_position,
        dtype=known_dtype(str(hf.dtype or "float32")),
        hf=hf,
        longest_unscaled=_longest_unscaled(hf),
    )


def _architecture(hf: Any) -> str:
    """Return the name of the class that transformers builds, which must be the one that the config names."""
    mapping: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    names = hf.architectures or []
    if type(hf) not in mapping:
        named = ", ".join(names) or f"model type {hf.model_type!r}"
        raise ValueError(f"{named} is not supported: transformers has no causal language model for it")
    built = mapping[type(hf)].__name__
    if names and built not in names:
        raise ValueError(f"{', '.join(names)} is not supported: only {built} of its family is a decoder")
    return str(built)


def _refusal(hf: Any) -> str | None:
    """Return why the config rules the model out."""
    return next(_refusals(hf), None)


def _refusals(hf: Any) -> Iterator[str]:
    built: Any = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(hf)]
    if getattr(hf, "quantization_config", None):
        yield "its weights are quantised, and only GGUF files may be"
    if hf.is_encoder_decoder or getattr(hf, "add_cross_attention", False):
        yield "it attends to an encoder"
    if hf.get_text_config(decoder=True) is not hf:
        yield "it is more than a decoder of text"
    if getattr(built, "_is_stateful", False):
        yield "some layers keep a recurrent state, which the paged cache does not hold"
    others = sorted(set(getattr(hf, "layer_types", None) or ()) - ATTENTION_LAYERS)
    if others:
        yield f"it has layers of the type {', '.join(others)}"
    if getattr(hf, "alibi", False) or hf.model_type in ("bloom", "mpt"):
        yield "ALiBi adds position biases to the attention, which the paged kernels do not have"
    if any(getattr(hf, field, None) for field in LATENT_FIELDS):
        yield "multi-head latent attention has keys and values of different sizes"
    if not built._can_set_attn_implementation():
        yield "it does not use transformers' attention interface"


def _longest_unscaled(hf: Any) -> int | None:
    """Return up to where a rotary embedding is the same for every batch, if it is not always.

    The "longrope" and "dynamic" types choose their frequencies by the longest sequence of a batch.
    """
    rope = getattr(hf, "rope_parameters", None) or {}
    per_layer_type = [each for each in rope.values() if isinstance(each, dict)]
    limits = []
    for parameters in per_layer_type or [rope]:
        if parameters.get("rope_type") in ("longrope", "dynamic"):
            original = parameters.get("original_max_position_embeddings")
            original = original or getattr(hf, "original_max_position_embeddings", None)
            limits.append(int(original or hf.max_position_embeddings))
    return min(limits, default=None)
