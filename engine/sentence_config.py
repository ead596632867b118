"""How a folder's model makes embeddings, in the files that sentence-transformers writes beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engine.errors import ModelLoadError
from engine.messages import Pooling

if TYPE_CHECKING:
    from pathlib import Path

POOLINGS = {
    "pooling_mode_cls_token": Pooling.CLS,
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_lasttoken": Pooling.LAST,
}
_FIRST_MODULES = ["Transformer", "Pooling"]


@dataclass(frozen=True, slots=True)
class SentenceConfig:
    """What stands behind the transformer. None and the defaults: the folder does not say."""

    pooling: Pooling | None = None
    normalizes: bool = True
    """Whether vectors are scaled to length 1."""
    max_num_tokens: int | None = None
    """Longest input."""

    @staticmethod
    def load(path: Path) -> SentenceConfig:
        """Read the config of a model folder; that of a file, or a folder without modules.json, is empty.

        Raises:
            ModelLoadError: a file is malformed, or asks for what is not supported.
        """
        if not (path / "modules.json").is_file():
            return SentenceConfig()
        modules = _read(path / "modules.json")
        try:
            kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
            folders = [path / str(module["path"]) for module in modules]
        except (TypeError, KeyError) as error:
            raise ModelLoadError(f"{path / 'modules.json'}: not a list of modules") from error
        if kinds[:2] != _FIRST_MODULES or kinds[2:] not in ([], ["Normalize"]):
            raise ModelLoadError(
                f"{path / 'modules.json'}: the modules {', '.join(kinds)} are not supported;"
                " supported are Transformer, Pooling and Normalize"
            )
        _refuse_prompts(path / "config_sentence_transformers.json")
        return SentenceConfig(
            pooling=_pooling(folders[1] / "config.json"),
            normalizes=kinds[2:] == ["Normalize"],
            max_num_tokens=_max_num_tokens(folders[0] / "sentence_bert_config.json"),
        )


def _pooling(path: Path) -> Pooling:
    fields = _read(path)
    modes = [name for name, value in fields.items() if name.startswith("pooling_mode_") and value is True]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise ModelLoadError(
            f"{path}: the pooling {' and '.join(modes) or 'of no mode'} is not supported;"
            f" supported is one of {', '.join(POOLINGS)}"
        )
    if fields.get("include_prompt") is False:
        raise ModelLoadError(f"{path}: include_prompt = false is not supported")
    return POOLINGS[modes[0]]


def _max_num_tokens(path: Path) -> int | None:
    if not path.is_file():
        return None
    fields = _read(path)
    if fields.get("do_lower_case"):
        raise ModelLoadError(f"{path}: do_lower_case is not supported; the tokenizer itself may lower-case")
    length = fields.get("max_seq_length")
    if length is not None and not (isinstance(length, int) and length > 0):
        raise ModelLoadError(f"{path}: max_seq_length is {length!r}; expected a positive number")
    return length


def _refuse_prompts(path: Path) -> None:
    """A text that is put before every input is left to the caller, who must not believe that we add it."""
    if path.is_file() and (name := _read(path).get("default_prompt_name")):
        raise ModelLoadError(f"{path}: default_prompt_name = {name!r} is not supported")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelLoadError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelLoadError(f"{path}: not valid JSON: {error}") from error
