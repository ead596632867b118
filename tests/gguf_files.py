"""Writes tiny models as GGUF files, as llama.cpp's converter does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import numpy
from gguf.quants import quantize
from safetensors.torch import load_file

from engine.gguf import LAYER_NAMES, TOP_NAMES
from engine.model_config import ModelConfig

if TYPE_CHECKING:
    from pathlib import Path

    from tiny_model import Family

GGUF_FAMILY: dict[Family, str] = {
    "llama2": "llama",
    "llama3": "llama",
    "smollm2": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
FILE_NAMES = {name: file_name for file_name, name in (TOP_NAMES | LAYER_NAMES).items()}


def file_name(name: str) -> str:
    """Translate transformers' name of a weight to the file's."""
    if name in FILE_NAMES:
        return FILE_NAMES[name]
    _, _, layer, *module, kind = name.split(".")
    return f"blk.{layer}.{FILE_NAMES['.'.join(module)]}.{kind}"


def permute(weight: numpy.ndarray, num_heads: int) -> numpy.ndarray:
    """The order that llama.cpp's converter gives to llama's q and k."""
    halves = weight.reshape(num_heads, 2, -1, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(folder: Path, path: Path, family: Family, kind: gguf.GGMLQuantizationType) -> None:
    """Write a model folder as a GGUF file, its matrices quantised."""
    config = ModelConfig.load(folder)
    name = GGUF_FAMILY[family]
    writer = gguf.GGUFWriter(path, name)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_position)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_token_list(["a", "b"])
    if config.rope.divisors is not None:
        writer.add_tensor("rope_freqs.weight", numpy.array(config.rope.divisors, dtype=numpy.float32))
    heads = {"q_proj": config.num_heads, "k_proj": config.num_kv_heads}
    for weight_name, tensor in load_file(folder / "model.safetensors").items():
        weight = tensor.float().numpy()
        part = weight_name.split(".")[-2]
        if name == "llama" and part in heads:
            weight = permute(weight, heads[part])
        weight_kind = kind if weight.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(file_name(weight_name), quantize(weight, weight_kind), raw_dtype=weight_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
