from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import numpy
import pytest
from gguf.quants import dequantize, quantize
from gguf_files import GGUF_FAMILY, permute, write_gguf
from hand_plans import HandPlans, load_runner
from safetensors.torch import load_file
from tiny_model import make_tiny_model

from engine.errors import ModelLoadError
from engine.gguf import GGUFFile, transformers_name, unpermute
from engine.model_config import ModelConfig

if TYPE_CHECKING:
    from pathlib import Path

    from tiny_model import Family

    from engine.model_runner import ModelRunner


def generate(runner: ModelRunner) -> list[int]:
    plans = HandPlans(runner)
    row = plans.admit([5, 9, 33, 200, 7, 84, 12, 250, 101])
    for _ in range(20):
        plans.step([row])
    return plans.tokens[row]


@pytest.mark.parametrize("family", GGUF_FAMILY)
def test_equals_the_folder_that_it_was_made_from(tmp_path: Path, family: Family) -> None:
    folder, path = make_tiny_model(tmp_path / "folder", family), tmp_path / "model.gguf"
    write_gguf(folder, path, family, gguf.GGMLQuantizationType.F32)
    config, from_folder = ModelConfig.load(path), ModelConfig.load(folder)
    assert config.rope.theta == from_folder.rope.theta
    assert config.norm_epsilon == from_folder.norm_epsilon
    assert config.tie_word_embeddings == from_folder.tie_word_embeddings
    assert config.dtype == "float32"
    assert generate(load_runner(path)) == generate(load_runner(folder))


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q8_0"])
def test_dequantises(tmp_path: Path, kind: str) -> None:
    folder = make_tiny_model(tmp_path / "folder", "smollm2")
    path, kind_ = tmp_path / "model.gguf", gguf.GGMLQuantizationType[kind]
    write_gguf(folder, path, "smollm2", kind_)
    loaded = dict(GGUFFile.open(path).weights())
    for name, weight in load_file(folder / "model.safetensors").items():
        expected = weight.numpy()
        if expected.ndim == 2:
            expected = dequantize(quantize(expected, kind_), kind_)
        numpy.testing.assert_array_equal(loaded[name].numpy(), expected)
    assert len(generate(load_runner(path))) == 29


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q5_0", "Q5_1", "IQ4_NL"])
def test_the_library_knows_the_common_quantisations(tmp_path: Path, kind: str) -> None:
    """Blocks of random bytes with sane scales, as there is no quantiser for these kinds."""
    kind_ = gguf.GGMLQuantizationType[kind]
    _, block_bytes = gguf.GGML_QUANT_SIZES[kind_]
    blocks = numpy.random.default_rng(0).integers(0, 48, (4, block_bytes), dtype=numpy.uint8)
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_tensor("blk.0.ffn_up.weight", blocks, raw_dtype=kind_)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ((name, weight),) = GGUFFile.open(path).weights()
    assert name == "model.layers.0.mlp.up_proj.weight"
    numpy.testing.assert_array_equal(weight.numpy(), dequantize(blocks, kind_))


def test_unpermute_undoes_permute() -> None:
    weight = numpy.arange(4 * 6 * 3).reshape(24, 3)
    assert not numpy.array_equal(permute(weight, 4), weight)
    numpy.testing.assert_array_equal(unpermute(permute(weight, 4), 4), weight)


@pytest.mark.parametrize(
    "name", ["blk.0.ffn_gate_exps.weight", "blk.0", "output_norm.bias", "v.patch_embd.weight"]
)
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ModelLoadError, match=name):
        transformers_name(name)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    folder, path = make_tiny_model(tmp_path / "folder"), tmp_path / "model.gguf"
    write_gguf(folder, path, "smollm2", gguf.GGMLQuantizationType.Q8_0)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match=r"model\.gguf"):
        load_runner(path)


def test_an_unsupported_architecture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelLoadError, match="'mamba' is not supported; supported are llama"):
        ModelConfig.load(path)
