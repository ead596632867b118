"""Builds a decoder of transformers and gives it its weights.

transformers knows how checkpoints of a family name, split and tie their weights, so it reads them. What it
reports as missing, unexpected or of the wrong shape is an error here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError

from engine.errors import ModelLoadError
from engine.general_config import READING_ERRORS
from engine.models.general import GeneralCausalLM
from engine.models.general_attention import PAGED
from engine.weights import fill_with_random, safetensors_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engine.config import LoadFormat
    from engine.general_config import GeneralConfig
    from engine.precision import Precision

_untyped: Any = transformers


def load_general(
    config: GeneralConfig,
    folder: Path,
    load_format: LoadFormat,
    seed: int,
    max_model_len: int,
    precision: Precision,
    device: torch.device,
    on_progress: Callable[[str, int, int], None],
) -> GeneralCausalLM:
    """Build a model and load its weights; it is not prepared yet.

    Args:
        config: what it is.
        folder: where its weights are.
        load_format: "dummy" makes them up.
        seed: of dummy weights.
        max_model_len: longest sequence, in tokens.
        precision: the types of tensors.
        device: where it computes.
        on_progress: called with a stage's name, and zeros as nothing is known of the units.

    Raises:
        ModelLoadError: a file or a weight is missing, malformed, of the wrong shape or not known.
    """
    library_logging, auto = _untyped.utils.logging, _untyped.AutoModelForCausalLM
    library_logging.disable_progress_bar()  # the server has its own
    library_logging.set_verbosity_error()  # what it would warn of is checked here
    on_progress("loading weights", 0, 0)
    if load_format == "dummy":
        with torch.device(device):
            transformer = auto.from_config(
                config.hf, dtype=precision.activations, attn_implementation=PAGED, trust_remote_code=False
            )
    else:
        transformer = _read(config, folder, precision.activations).to(device)
    model = GeneralCausalLM(config, transformer, max_model_len, precision)
    if load_format == "dummy":
        fill_with_random(model, seed)
    return model


def _read(config: GeneralConfig, folder: Path, dtype: torch.dtype) -> Any:
    safetensors_files(folder)
    try:
        transformer, report = _untyped.AutoModelForCausalLM.from_pretrained(
            folder,
            config=config.hf,
            dtype=dtype,
            attn_implementation=PAGED,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            output_loading_info=True,
        )
    except (*READING_ERRORS, AssertionError, RuntimeError, SafetensorError) as error:
        raise ModelLoadError(f"{folder}: the weights cannot be loaded: {error}") from error
    for kind, problem in (
        ("missing_keys", "missing"),
        ("unexpected_keys", "not part of this architecture"),
        ("mismatched_keys", "of the wrong shape"),
    ):
        names = sorted(str(name) for name in report[kind])
        if names:
            raise ModelLoadError(f"{len(names)} weights are {problem}, among them {', '.join(names[:5])}")
    return transformer
