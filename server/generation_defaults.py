"""Sampling values that a model's makers recommend, used where a request gives none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from engine.gguf_metadata import read_gguf_metadata

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "generation_config.json"
GGUF_KEYS = {
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}


class GenerationConfigError(Exception):
    """The model's sampling values are malformed; the text says where."""


class GenerationDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """The values that a model's files give. None: not given.

    As in vLLM, `do_sample` and all other entries of generation_config.json have no effect.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    eos_token_ids: tuple[int, ...] | None = None

    @staticmethod
    def load(path: Path) -> GenerationDefaults:
        """Read the defaults of a model folder or a .gguf file. All are None where it has none.

        Raises:
            GenerationConfigError: the values are malformed.
            ModelLoadError: the .gguf file is not readable.
        """
        try:
            return msgspec.convert(_read(path), GenerationDefaults)
        except (OSError, msgspec.DecodeError) as error:  # a value of the wrong type is a DecodeError too
            raise GenerationConfigError(f"generation config of {path}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        metadata = read_gguf_metadata(path)
        return {name: metadata.get(key) for name, key in GGUF_KEYS.items()}
    file = path / FILE_NAME
    config = msgspec.json.decode(file.read_bytes(), type=dict[str, Any]) if file.exists() else {}
    eos = config.get("eos_token_id")
    return {**config, "eos_token_ids": [eos] if isinstance(eos, int) else eos}
