"""Fills a model's parameters: from safetensors, from GGUF, or with seeded random numbers.

Loading is strict. Each parameter is filled exactly once, and a name that the model does not know is an
error.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from engine.errors import ModelLoadError
from engine.gguf import GGUFFile
from engine.layers.linear import Linear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor, nn

    from engine.config import LoadFormat
    from engine.models.bert import BertModel
    from engine.models.causal_lm import CausalLM
    from engine.models.decoder import PagedDecoder

INDEX_FILE = "model.safetensors.index.json"
RECOMPUTED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
"""Buffers that old checkpoints hold beside the weights."""


def load_weights(
    model: PagedDecoder,
    path: Path,
    load_format: LoadFormat,
    seed: int,
    on_progress: Callable[[str, int, int], None],
) -> None:
    """Fill the parameters of a model that is not prepared yet.

    Args:
        model: the model.
        path: its folder, or its .gguf file.
        load_format: where the weights come from; "auto" tells by the path.
        seed: of "dummy" weights.
        on_progress: called with a stage's name and the bytes done and in total.

    Raises:
        ModelLoadError: a file or a weight is missing, malformed, of the wrong shape or not known.
    """
    if load_format == "dummy":
        fill_with_random(model, seed)
        return
    if load_format == "auto":
        load_format = "gguf" if path.is_file() else "safetensors"
    if load_format == "gguf":
        file = GGUFFile.open(path)
        fill(model, used_by(model, file.weights()), on_progress)
        keep_four_bit(model, file.four_bit_blocks())
    else:
        fill(model, used_by(model, read_safetensors(path)), on_progress)


def used_by(model: PagedDecoder, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Leave out what the model does not need though its checkpoint holds it."""
    ignored = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    for name, weight in weights:
        if name not in ignored and not RECOMPUTED.fullmatch(name):
            yield name, weight


def keep_four_bit(model: nn.Module, blocks: Mapping[str, Tensor]) -> None:
    """Give linear layers their weights in four bits too, where the file has all their parts so."""
    for path, module in model.named_modules():
        if isinstance(module, Linear) and not module.weight.is_cuda:
            names = [name for name, _ in split_rows(path, module) if name.endswith(".weight")]
            if all(name in blocks for name in names):
                module.four_bit = torch.cat([blocks[name] for name in names])


def fill(
    model: nn.Module,
    weights: Iterable[tuple[str, Tensor]],
    on_progress: Callable[[str, int, int], None],
) -> None:
    """Copy named weights into the model, converting their type.

    Raises:
        ModelLoadError: a weight is missing, of the wrong shape or not known.
    """
    missing = destinations(model)
    done, total = 0, sum(each.nbytes for each in missing.values())
    seen = set()
    for name, weight in weights:
        if name not in missing:
            reason = "appears twice" if name in seen else "is not part of this architecture"
            raise ModelLoadError(f"the weight {name!r} {reason}")
        target = missing.pop(name)
        seen.add(name)
        if weight.shape != target.shape:
            expected, found = tuple(target.shape), tuple(weight.shape)
            raise ModelLoadError(f"the weight {name!r} has the shape {found}, but {expected} was expected")
        target.copy_(weight)
        done += target.nbytes
        on_progress("loading weights", done, total)
    if missing:
        names = sorted(missing)
        raise ModelLoadError(f"{len(names)} weights are missing, among them {', '.join(names[:5])}")


def destinations(model: nn.Module) -> dict[str, Tensor]:
    """Return where each weight of a checkpoint goes: a parameter, or the rows of a joined one."""
    targets: dict[int, tuple[str, Tensor]] = {}
    for path, module in model.named_modules():
        parts = split_rows(path, module) if isinstance(module, Linear) else whole(path, module)
        for name, target in parts:
            targets.setdefault(target.data_ptr(), (name, target))  # tied weights have their first name
    return dict(targets.values())


def whole(path: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield a module's own parameters under its own name."""
    for name, parameter in module.named_parameters(prefix=path, recurse=False):
        yield name, parameter.data


def split_rows(path: str, module: Linear) -> Iterator[tuple[str, Tensor]]:
    """Yield the parts of a joined linear layer under the names that stand beside it."""
    for kind, parameter in module.named_parameters(recurse=False):
        rows = torch.split(parameter.data, list(module.parts.values()))
        for name, target in zip(part_names(path, module), rows, strict=True):
            yield f"{name}.{kind}", target


def part_names(path: str, module: Linear) -> list[str]:
    """Return what a checkpoint calls the matrices that a linear layer joins."""
    prefix = path.rpartition(".")[0]
    return [f"{prefix}.{part}" if prefix else part for part in module.parts]


def read_safetensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield all weights of a folder, mapped into memory.

    Raises:
        ModelLoadError: there is no file, or one is missing or malformed.
    """
    for file in safetensors_files(folder):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is not a mapping
                    yield name, tensors.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ModelLoadError(f"{file}: cannot be read: {error}") from error


def safetensors_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights: those that the index names, or the only one.

    Raises:
        ModelLoadError: there is none, or the index is malformed.
    """
    index = folder / INDEX_FILE
    if not index.exists():
        only = folder / "model.safetensors"
        files = [only] if only.exists() else sorted(folder.glob("*.safetensors"))
        if not files:
            raise ModelLoadError(f"{folder}: there are no .safetensors files")
        return files
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelLoadError(f"{index}: not an index of weights") from error
    return [folder / name for name in sorted(names)]


def fill_with_random(model: CausalLM | BertModel, seed: int) -> None:
    """Fill the parameters with random numbers that keep activations near 1 and logits apart.

    Equal seeds give equal weights on one kind of device.
    """
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        weight = parameter.data
        if weight.dim() >= 2:
            # The output layer's inputs are normalised, so logits have a standard deviation of 2.
            scale = 2.0 if weight.shape[0] == model.config.vocab_size else 1.0
            weight.normal_(0.0, scale * weight.shape[-1] ** -0.5, generator=generator)
        else:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
