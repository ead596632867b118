"""How rotary position embedding turns pairs of a head's dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.decoder_config import NoPageError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Pair i of a head turns by position * theta^(-2i / head_dim) / divisors[i] radians."""

    theta: float
    divisors: tuple[float, ...] | None = None
    """head_dim / 2 numbers that slow the rotation down, for long contexts. None is all ones."""


def rope_from_hf(fields: Mapping[str, Any], head_dim: int, max_position: int) -> RopeConfig:
    """Read rotary settings from a config.json, in the spelling of transformers 4 or 5.

    Raises:
        KeyError: a setting of the scaling is missing.
        NoPageError: our pages do not have this type of scaling.
    """
    scaling = dict(fields.get("rope_parameters") or fields.get("rope_scaling") or {})
    theta = float(scaling.get("rope_theta") or fields.get("rope_theta") or 10000.0)
    partial = scaling.get("partial_rotary_factor") or fields.get("partial_rotary_factor") or 1.0
    if partial != 1.0:
        raise NoPageError(f"partial_rotary_factor {partial} is not supported, only 1")
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return RopeConfig(theta)
    if kind == "linear":
        return RopeConfig(theta, (float(scaling["factor"]),) * (head_dim // 2))
    if kind == "llama3":
        return RopeConfig(theta, _llama3_divisors(theta, head_dim, scaling, max_position))
    raise NoPageError(f"rope scaling of type {kind!r} is not supported, only default, linear and llama3")


def rope_from_gguf(
    fields: Mapping[str, Any], head_dim: int, divisors: tuple[float, ...] | None
) -> RopeConfig:
    """Read rotary settings from GGUF metadata, given without the architecture's prefix.

    Raises:
        ValueError: the type of scaling, or a partial rotation, is not supported.
    """
    rotated = int(fields.get("rope.dimension_count", head_dim))
    if rotated != head_dim:
        raise ValueError(f"rotating {rotated} of {head_dim} dimensions is not supported")
    theta = float(fields.get("rope.freq_base", 10000.0))
    kind = fields.get("rope.scaling.type", "none")
    if kind == "linear":
        return RopeConfig(theta, (float(fields["rope.scaling.factor"]),) * (head_dim // 2))
    if kind != "none":
        raise ValueError(f"rope scaling of type {kind!r} is not supported, only none and linear")
    if divisors is not None and len(divisors) != head_dim // 2:
        raise ValueError(f"{len(divisors)} rotary frequencies do not fit a head of {head_dim} dimensions")
    return RopeConfig(theta, divisors)


def _llama3_divisors(
    theta: float, head_dim: int, scaling: Mapping[str, Any], max_position: int
) -> tuple[float, ...]:
    """Llama 3's rule: slow wavelengths are stretched by `factor`, fast ones kept, with a ramp between."""
    factor = float(scaling["factor"])
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    original = int(scaling.get("original_max_position_embeddings") or max_position)

    def divisor(pair: int) -> float:
        wavelength = 2 * math.pi * math.pow(theta, 2 * pair / head_dim)
        turns = original / wavelength
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        return 1.0 / ((1.0 - kept) / factor + kept)

    return tuple(divisor(pair) for pair in range(head_dim // 2))
