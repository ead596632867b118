"""What adapter_config.json says of a LoRA adapter in PEFT's format, checked."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

import msgspec

from engine.errors import AdapterError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CONFIG_FILE = "adapter_config.json"
_LAYER = r".*?\.[^.]*\.(?P<index>\d+)\."
# How training began, where that does not change the base model's own weights.
_HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
# Fields that speak of training, of merging or of where things came from.
_HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
    "fan_in_fan_out", "inference_mode", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_config",
    "megatron_core", "peft_version", "qalora_group_size", "revision",
}  # fmt: skip


class AdapterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Which matrices an adapter changes, and how much."""

    r: int
    lora_alpha: float
    use_rslora: bool = False
    target_modules: str | list[str]
    """Names or ends of names; as one text, a regular expression, or "all-linear"."""
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    rank_pattern: dict[str, int] = {}
    """Ranks of the modules that match an expression."""
    alpha_pattern: dict[str, float] = {}

    @classmethod
    def load(cls, folder: Path) -> AdapterConfig:
        """Read and check a folder's config.

        Raises:
            AdapterError: it is missing, malformed, or asks for what is not supported.
        """
        path = folder / CONFIG_FILE
        try:
            fields = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise AdapterError(f"{path}: cannot be read: {error}") from error
        if not isinstance(fields, dict):
            raise AdapterError(f"{path}: expected a JSON object")
        _refuse(fields)
        known = {name: value for name, value in fields.items() if name in cls.__struct_fields__}
        known = {name: value for name, value in known.items() if value is not None}
        try:
            config = msgspec.convert(known, cls)
            config._check()
        except (msgspec.ValidationError, re.error, ValueError, OverflowError, RecursionError) as error:
            raise AdapterError(f"{path}: {error}") from error
        return config

    def targets(self, module: str) -> bool:
        """Whether the adapter changes a linear layer of this name in the checkpoint."""
        if self.exclude_modules and _matches(self.exclude_modules, module):
            return False
        if self.target_modules == "all-linear":
            return True
        if not _matches(self.target_modules, module):
            return False
        if isinstance(self.target_modules, str) or self.layers_to_transform in (None, []):
            return True
        return self._layer_of(module) in _listed(self.layers_to_transform)

    def rank_of(self, module: str) -> int:
        """Rank of its matrices."""
        return self.rank_pattern.get(_pattern_of(self.rank_pattern, module), self.r)

    def scale_of(self, module: str) -> float:
        """What their product is multiplied by."""
        alpha = self.alpha_pattern.get(_pattern_of(self.alpha_pattern, module), self.lora_alpha)
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def _layer_of(self, module: str) -> int | None:
        for expression in self._layer_expressions or [_LAYER]:
            if match := re.match(expression, module):
                return int(match["index"])
        return None

    @property
    def _layer_expressions(self) -> list[str]:
        return [rf"(?:^|.*?\.){name}\.(?P<index>\d+)\." for name in _listed(self.layers_pattern)]

    def _check(self) -> None:
        ranks = [self.r, *self.rank_pattern.values()]
        if min(ranks) < 1:
            raise ValueError(f"a rank of {min(ranks)}; expected at least 1")
        if not all(map(math.isfinite, [self.lora_alpha, *self.alpha_pattern.values()])):
            raise ValueError("lora_alpha is not a finite number")
        modules = [names for names in (self.target_modules, self.exclude_modules) if isinstance(names, str)]
        endings = map(_ending_in, (*self.rank_pattern, *self.alpha_pattern))
        for expression in (*modules, *endings, *self._layer_expressions):
            re.compile(expression)  # here, as which of them a module meets is another question


def _refuse(fields: dict[str, Any]) -> None:
    """Refuse, by name, each field that would change the result and is not supported."""
    if fields.get("peft_type") != "LORA":
        raise AdapterError(f'peft_type is {fields.get("peft_type")!r}; expected "LORA"')
    task_type = fields.get("task_type")
    if task_type not in (None, "CAUSAL_LM"):
        raise AdapterError(f'task_type is {task_type!r}; expected "CAUSAL_LM"')
    if fields.get("bias", "none") != "none":
        raise AdapterError(f'bias is {fields["bias"]!r}; only "none" is supported')
    start = fields.get("init_lora_weights", True)
    if isinstance(start, (dict, list)) or start not in _HARMLESS_STARTS:
        raise AdapterError(
            f"init_lora_weights is {start!r}, which changes the base model's weights; "
            "convert the adapter to plain LoRA"
        )
    read = {
        "peft_type",
        "task_type",
        "bias",
        "init_lora_weights",
        *AdapterConfig.__struct_fields__,
        *_HARMLESS,
    }
    for name, value in fields.items():
        if name not in read and value:
            raise AdapterError(f"{name} is {json.dumps(value)[:80]}, which is not supported")


def _matches(names: str | Sequence[str], module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _pattern_of(patterns: dict[str, Any], module: str) -> str:
    return next((key for key in patterns if re.match(_ending_in(key), module)), "")


def _ending_in(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"


def _listed(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]
