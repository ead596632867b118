"""Chooses what computes a model: one of our pages where there is one, else transformers on our cache."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from engine.decoder_config import NoPageError
from engine.errors import ModelLoadError
from engine.model_config import ModelConfig
from engine.models import MODELS
from engine.weights import load_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engine.config import EngineConfig, ModelImplementation
    from engine.general_config import GeneralConfig
    from engine.models.causal_lm import CausalLM
    from engine.models.decoder import PagedDecoder
    from engine.precision import Precision

logger = logging.getLogger("engine")


def load_config(path: Path, implementation: ModelImplementation) -> ModelConfig | GeneralConfig:
    """Read the config of a model folder or a .gguf file; its type says what computes the model.

    Raises:
        ModelLoadError: it is missing or malformed, or neither way can compute the model.
    """
    if implementation == "auto":
        try:
            return ModelConfig.load(path)
        except NoPageError as error:
            reason = str(error)
    else:
        reason = "model_impl is transformers"
    if path.is_file():
        raise ModelLoadError(f"{path}: transformers' models are served from folders, not from GGUF files")
    from engine.general_config import GeneralConfig  # transformers takes seconds to import

    config = GeneralConfig.load(path)
    logger.warning(
        "%s runs through transformers' attention interface, which is slower than our own code: %s",
        config.architecture,
        reason,
    )
    return config


def load_model(
    config: ModelConfig | GeneralConfig,
    engine_config: EngineConfig,
    path: Path,
    max_model_len: int,
    precision: Precision,
    device: torch.device,
    on_progress: Callable[[str, int, int], None],
) -> CausalLM:
    """Build a model and load its weights; it is not prepared yet.

    Raises:
        ModelLoadError: a file or a weight is missing, malformed, of the wrong shape or not known.
    """
    load_format, seed = engine_config.load_format, engine_config.seed
    if isinstance(config, ModelConfig):
        model = _build(config, path, max_model_len, precision, device)
        load_weights(model, path, load_format, seed, on_progress)
        return model
    from engine.models.general_loading import load_general

    return load_general(config, path, load_format, seed, max_model_len, precision, device, on_progress)


def _build(
    config: ModelConfig, path: Path, max_model_len: int, precision: Precision, device: torch.device
) -> PagedDecoder:
    try:
        with torch.device(device):
            return MODELS[config.architecture](config, max_model_len, precision)
    except (RuntimeError, MemoryError) as error:  # torch's own, for sizes that nothing holds
        reason = str(error).partition("\n")[0]
        raise ModelLoadError(f"{path}: a model of these sizes cannot be built: {reason}") from error
