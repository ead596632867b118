from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from gguf import GGUFWriter

from server.generation_defaults import GenerationConfigError, GenerationDefaults

if TYPE_CHECKING:
    from pathlib import Path


def write(folder: Path, content: object) -> Path:
    (folder / "generation_config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_values_are_read_and_others_ignored(tmp_path: Path) -> None:
    config = {
        "do_sample": False,
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "max_new_tokens": 512,
        "eos_token_id": [2, 5],
        "bos_token_id": 1,
        "transformers_version": "5.0",
    }
    assert GenerationDefaults.load(write(tmp_path, config)) == GenerationDefaults(
        temperature=0.7,
        top_k=20,
        top_p=0.8,
        min_p=0.05,
        repetition_penalty=1.1,
        max_new_tokens=512,
        eos_token_ids=(2, 5),
    )


@pytest.mark.parametrize(("given", "expected"), [(2, (2,)), ([2], (2,)), (None, None)])
def test_the_end_is_one_token_or_several(
    tmp_path: Path, given: object, expected: tuple[int, ...] | None
) -> None:
    assert GenerationDefaults.load(write(tmp_path, {"eos_token_id": given})).eos_token_ids == expected


def test_a_folder_need_not_have_any(tmp_path: Path) -> None:
    assert GenerationDefaults.load(tmp_path) == GenerationDefaults()


@pytest.mark.parametrize(
    "content", [{"temperature": "hot"}, {"top_k": 1.5}, {"eos_token_id": ["</s>"]}, [], "text"]
)
def test_malformed_values_are_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(GenerationConfigError, match="generation config of"):
        GenerationDefaults.load(write(tmp_path, content))


def test_bytes_that_are_no_json_are_refused(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_bytes(b"\xff{")
    with pytest.raises(GenerationConfigError):
        GenerationDefaults.load(tmp_path)


def test_gguf_files_can_carry_sampling_values(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_float32("general.sampling.temp", 0.5)
    writer.add_int32("general.sampling.top_k", 40)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert GenerationDefaults.load(path) == GenerationDefaults(temperature=0.5, top_k=40)


def test_the_default_model_has_none(smollm2_path: Path) -> None:
    assert GenerationDefaults.load(smollm2_path) == GenerationDefaults()
