"""Weights of a GGUF file, under the names and in the layout that transformers uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gguf
import numpy
import torch
from gguf.quants import dequantize

from engine.errors import ModelLoadError
from engine.gguf_metadata import read_gguf_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from engine.gguf_metadata import TensorInfo

FREQUENCY_DIVISORS = "rope_freqs.weight"
TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """An open GGUF file, mapped into memory."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    """By the names in the file."""

    @staticmethod
    def open(path: Path) -> GGUFFile:
        """Read the file's header.

        Raises:
            ModelLoadError: the file cannot be read, or is not a GGUF file.
        """
        header = read_gguf_header(path)
        return GGUFFile(path, header.metadata, {each.name: each for each in header.tensors})

    @property
    def dtype(self) -> str:
        """What holds the weights without needless loss: quantised ones become bfloat16."""
        kind = gguf.GGMLQuantizationType(self.tensors["token_embd.weight"].kind).name
        return {"F32": "float32", "F16": "float16"}.get(kind, "bfloat16")

    def frequency_divisors(self) -> tuple[float, ...] | None:
        """Return the divisors of the rotary frequencies, where the file holds them (Llama 3)."""
        if FREQUENCY_DIVISORS not in self.tensors:
            return None
        return tuple(self._read(self.tensors[FREQUENCY_DIVISORS]).tolist())

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each weight under its name in transformers, dequantised to float32.

        Raises:
            ModelLoadError: a tensor has a name or a quantisation that is not known.
        """
        for info in self.tensors.values():
            if info.name != FREQUENCY_DIVISORS:
                name = transformers_name(info.name)
                yield name, torch.from_numpy(self._in_transformers_layout(info, self._read(info)))

    def four_bit_blocks(self) -> dict[str, Tensor]:
        """Return the weights in Q4_1, by their names in transformers, for `few_rows.linear_four_bit`.

        Each is uint8 [rows, columns / 32, 24]. The file's blocks hold scale and minimum in float16; these,
        in float32.
        """
        blocks = {}
        for info in self.tensors.values():
            if info.kind == gguf.GGMLQuantizationType.Q4_1:
                data = self._in_transformers_layout(info, self._map(info)).reshape(info.shape[0], -1, 20)
                scales = data[..., :4].copy().view(numpy.float16).astype(numpy.float32).view(numpy.uint8)
                wide = numpy.concatenate((scales, data[..., 4:]), axis=-1)
                blocks[transformers_name(info.name)] = torch.from_numpy(wide)
        return blocks

    def _in_transformers_layout(self, info: TensorInfo, weight: numpy.ndarray) -> numpy.ndarray:
        """Put the rows of a tensor, as numbers or as bytes, in order."""
        if self.metadata["general.architecture"] != "llama":
            return weight
        num_heads = int(self.metadata["llama.attention.head_count"])
        if ".attn_q." in info.name:
            return unpermute(weight, num_heads)
        if ".attn_k." in info.name:
            return unpermute(weight, int(self.metadata.get("llama.attention.head_count_kv", num_heads)))
        return weight

    def _read(self, info: TensorInfo) -> numpy.ndarray:
        """Return a tensor as float32, whatever its quantisation."""
        try:
            kind = gguf.GGMLQuantizationType(info.kind)
            weight = dequantize(_typed(self._map(info), kind), kind)
        except (NotImplementedError, OSError, OverflowError, ValueError) as error:
            raise ModelLoadError(f"{self.path}: the tensor {info.name!r} cannot be read: {error}") from error
        return numpy.ascontiguousarray(weight, dtype=numpy.float32)

    def _map(self, info: TensorInfo) -> numpy.ndarray:
        """Return a tensor's bytes, uint8 [..., bytes of a row]."""
        block_size, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(info.kind)]
        *rows, columns = info.shape
        shape = (*rows, columns // block_size * block_bytes)
        return numpy.memmap(self.path, mode="c", offset=info.offset, shape=shape, dtype=numpy.uint8)


def _typed(data: numpy.ndarray, kind: gguf.GGMLQuantizationType) -> numpy.ndarray:
    """View bytes as the numbers that `dequantize` expects; it takes quantised blocks as bytes."""
    plain = {"F32": numpy.float32, "F16": numpy.float16}
    return data.view(plain[kind.name]) if kind.name in plain else data


def transformers_name(name: str) -> str:
    """Translate a tensor's name: "blk.3.attn_q.weight" is "model.layers.3.self_attn.q_proj.weight".

    Raises:
        ModelLoadError: the name is not known.
    """
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    match name.split("."):
        case ["blk", layer, part, suffix] if part in LAYER_NAMES:
            return f"model.layers.{layer}.{LAYER_NAMES[part]}.{suffix}"
    raise ModelLoadError(f"the GGUF tensor {name!r} is not known")


def unpermute(weight: numpy.ndarray, num_heads: int) -> numpy.ndarray:
    """Undo GGUF's order of rows within each head of llama's q and k: pairs (i, i + d/2) stand together.

    Args:
        weight: [num_heads * head_dim, ...].
    """
    pairs = weight.reshape(num_heads, -1, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)
