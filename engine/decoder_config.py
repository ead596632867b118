"""What the engine needs to know of any decoder before it is built."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import ModelLoadError

MAX_LAYERS = 1_000
LARGEST_SIZE = 1 << 24
"""Of anything else that is counted in a model. Beyond these a file is broken, or means to keep us busy."""


class NoPageError(ModelLoadError):
    """None of our pages computes the model; transformers may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderConfig:
    """Sizes that bound requests, and the type of the weights."""

    architecture: str
    """The class that transformers has for it, such as LlamaForCausalLM."""
    vocab_size: int
    hidden_size: int
    max_position: int
    """Longest sequence that the model was made for, in tokens."""
    dtype: str
    """Of the weights as published: float32, bfloat16 or float16."""

    @property
    def length_limit(self) -> tuple[int, str]:
        """The longest sequence that can be served, in tokens, and what sets it."""
        return self.max_position, "context length"

    def max_model_len(self, requested: int | None) -> int:
        """Return the longest sequence to serve, in tokens.

        Raises:
            ModelLoadError: the requested length is beyond what the model can do.
        """
        limit, kind = self.length_limit
        if requested is None:
            return limit
        if requested > limit:
            raise ModelLoadError(f"max_model_len is {requested}, beyond the model's {kind} of {limit}")
        return requested


def known_dtype(name: str) -> str:
    """Return the name of a type of weights that the engine has.

    Raises:
        ValueError: it is another.
    """
    name = name.removeprefix("torch.")
    if name not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"the dtype {name!r} is not supported, only float32, bfloat16 and float16")
    return name
