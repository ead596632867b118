"""LoRA adapters: read from PEFT's files, kept in memory, and put on the device where the scheduler says.

Reading is strict: each matrix that the config names must be there, in the shape that the model has, and no
other.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from engine.adapter_config import AdapterConfig
from engine.errors import AdapterError
from engine.layers.linear import Linear
from engine.layers.lora import LoraStep, LowRank
from engine.weights import part_names
from kernels.lora import MAX_PARTS, padded_rank

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

    from engine.models.causal_lm import CausalLM
    from engine.step import Admission

WEIGHTS_FILE, PICKLED_FILE = "adapter_model.safetensors", "adapter_model.bin"
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class _Place(NamedTuple):
    """Where the model has one matrix of the checkpoint."""

    low_rank: LowRank
    part: int
    in_features: int
    out_features: int


class _Change(NamedTuple):
    """What an adapter adds to one matrix."""

    place: _Place
    a: Tensor
    """[rank, in_features]."""
    b: Tensor
    """[out_features, rank], the scale in it."""


class Adapters:
    """The adapters of one model. Made before the model's cache is sized, for slots take memory.

    Args:
        model: prepared; its linear layers get their slots here.
        num_slots: adapters that may lie on the device. 0 leaves the model as it is.
        max_rank: of their matrices.
        like: an empty tensor of the type and device of activations.
    """

    def __init__(self, model: CausalLM, num_slots: int, max_rank: int, like: Tensor) -> None:
        self.num_slots = num_slots
        self._step = LoraStep()
        self._max_rank = max_rank
        self._like = like
        self._places: dict[str, _Place] = {}
        self._others: set[str] = set()  # linear layers that cannot be changed
        self._low_ranks: list[LowRank] = []
        self._loaded: dict[int, Sequence[_Change]] = {}
        self._in_slots = [0] * (num_slots + 1)
        if num_slots:
            for path, module in model.named_modules():
                if isinstance(module, Linear):
                    self._attach(path, module, num_slots)

    def _attach(self, path: str, module: Linear, num_slots: int) -> None:
        names = part_names(path, module)
        if any(_is_outside(name) for name in names) or len(names) > MAX_PARTS:
            self._others.update(names)
            return
        sizes = list(module.parts.values())
        rank = padded_rank(self._max_rank)
        low_rank = LowRank(self._step, module.in_features, sizes, num_slots, rank, self._like)
        module.low_rank = low_rank
        self._low_ranks.append(low_rank)
        for part, (name, size) in enumerate(zip(names, sizes, strict=True)):
            self._places[name] = _Place(low_rank, part, module.in_features, size)

    def load(self, adapter: int, path: str) -> int:
        """Read an adapter into memory under an id, and return its largest rank. Any thread may call it.

        Raises:
            AdapterError: it cannot be used with this model; the text says why.
        """
        folder = Path(path)
        config = AdapterConfig.load(folder)
        targets = self._targets_of(config, folder)
        changes = [
            self._change(config, target, matrices) for target, matrices in _read_matrices(folder, targets)
        ]
        self._loaded[adapter] = changes
        return max(len(change.a) for change in changes)

    def unload(self, adapter: int) -> None:
        """Forget an adapter, which no sequence uses."""
        del self._loaded[adapter]

    def place(self, admissions: Sequence[Admission]) -> None:
        """Put the adapters of new sequences into their slots, unless they lie there."""
        for admission in admissions:
            slot, adapter = admission.adapter_slot, admission.adapter
            if slot and self._in_slots[slot] != adapter:
                self._in_slots[slot] = adapter
                for low_rank in self._low_ranks:
                    low_rank.clear(slot)
                for change in self._loaded[adapter]:
                    change.place.low_rank.write(slot, change.place.part, change.a, change.b)

    def applied(self, slots: Tensor | None) -> AbstractContextManager[None]:
        """Within, forward passes are over tokens of these slots [num_tokens] int32; None is no adapter."""
        return self._step.of(slots)

    def _targets_of(self, config: AdapterConfig, folder: Path) -> list[str]:
        """Return the names of the matrices that the adapter changes."""
        unsupported = sorted(name for name in self._others if config.targets(name))
        if unsupported and config.target_modules != "all-linear":
            raise AdapterError(f"{folder}: it changes {unsupported[0]}, which is not supported")
        targets = [name for name in self._places if config.targets(name)]
        if not targets:
            raise AdapterError(f"{folder}: target_modules names nothing in this model")
        rank = max(map(config.rank_of, targets))
        if rank > self._max_rank:
            raise AdapterError(f"{folder}: its rank is {rank}; the server takes at most {self._max_rank}")
        return targets

    def _change(self, config: AdapterConfig, target: str, matrices: tuple[Tensor, Tensor]) -> _Change:
        place, rank = self._places[target], config.rank_of(target)
        shapes = ((rank, place.in_features), (place.out_features, rank))
        for kind, matrix, shape in zip("AB", matrices, shapes, strict=True):
            if matrix.dtype not in _DTYPES or matrix.shape != shape:
                found = f"{tuple(matrix.shape)} of {matrix.dtype}"
                raise AdapterError(
                    f"{target}.lora_{kind}: it is {found}; this model needs {shape} of a float"
                )
            if not matrix.isfinite().all():
                raise AdapterError(f"{target}.lora_{kind}: it holds values that are not finite")
        a, b = matrices
        dtype = self._like.dtype
        return _Change(place, a.to(dtype), (b.float() * config.scale_of(target)).to(dtype))


def _is_outside(name: str) -> bool:
    """Whether a layer is the output layer, or sees only some tokens of a step as experts do."""
    return "." not in name or ".experts." in name


def _read_matrices(folder: Path, targets: Sequence[str]) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """Yield both matrices of each target.

    Raises:
        AdapterError: the file cannot be read, lacks one of them or has others.
    """
    file = folder / WEIGHTS_FILE
    if not file.exists() and (folder / PICKLED_FILE).exists():
        raise AdapterError(
            f"{folder}: {PICKLED_FILE} is pickled, which can run code; save the adapter as {WEIGHTS_FILE}"
        )
    expected = {
        target: tuple(f"base_model.model.{target}.lora_{kind}.weight" for kind in "AB") for target in targets
    }
    try:
        with safe_open(file, framework="pt") as tensors:
            _compare(folder, set(tensors.keys()), {name for pair in expected.values() for name in pair})
            for target, (a, b) in expected.items():
                yield target, (tensors.get_tensor(a), tensors.get_tensor(b))
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{file}: cannot be read: {error}") from error


def _compare(folder: Path, found: set[str], expected: set[str]) -> None:
    for kind, names in (
        ("missing", expected - found),
        ("not named by its config or not part of this model", found - expected),
    ):
        if names:
            raise AdapterError(
                f"{folder}: {len(names)} weights are {kind}, among them {', '.join(sorted(names)[:3])}"
            )
