"""A loaded encoder, ready to run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from engine.device_span import DeviceSpan
from engine.encoder_batch import EncoderInputs, pool
from engine.errors import AdapterError, ModelLoadError
from engine.host import num_physical_cores
from engine.limits import choose_device
from engine.messages import EngineInfo, Pooling
from engine.model_size import ModelSize
from engine.models.bert import BertModel
from engine.pending_step import Chosen, PendingStep
from engine.pooler import Pooled
from engine.precision import choose_precision
from engine.sentence_config import SentenceConfig
from engine.weights import fill, fill_with_random, read_safetensors

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.config import EngineConfig
    from engine.encoder_config import EncoderConfig
    from engine.step import StepPlan

    OnProgress = Callable[[str, int, int], None]


class EncoderRunner:
    """Runs steps of whole sequences."""

    def __init__(
        self, model: BertModel, info: EngineInfo, max_num_seqs: int, max_num_batched_tokens: int
    ) -> None:
        self.info = info
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.max_steps_in_flight = 1 if info.device == "cpu" else 2
        self._model = model
        self._device = torch.device(info.device)

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> PendingStep:
        """Begin to compute the sequences that a plan admits."""
        span = DeviceSpan.begin(self._device)
        admissions = sorted(plan.admissions, key=lambda admission: len(admission.token_ids))
        inputs = EncoderInputs.make([admission.token_ids for admission in admissions], self._device)
        poolings = [admission.pooling for admission in admissions if admission.pooling is not None]
        assert len(poolings) == len(admissions), "an encoder generates nothing"
        vectors = pool(self._model(inputs), inputs, poolings)
        no_tokens = torch.empty(0, dtype=torch.int64, device=self._device)
        pooled = Pooled([admission.row for admission in admissions], vectors)
        return PendingStep((), Chosen(no_tokens), {}, pooled, span)

    def load_adapter(self, adapter: int, path: str) -> int:
        """Refuse: see `Runner`."""
        raise AdapterError("an encoder takes no adapters")

    def unload_adapter(self, adapter: int) -> None:
        """Do nothing: there is none."""

    @staticmethod
    def load(config: EngineConfig, encoder: EncoderConfig, on_progress: OnProgress) -> EncoderRunner:
        """Load an encoder and run it once.

        Args:
            config: what to load and how.
            encoder: what the model's folder says.
            on_progress: called with a stage's name and the units done and in total, 0 where unknown.

        Raises:
            ModelLoadError: the model cannot be served; the text says why.
        """
        started = time.monotonic()
        device = choose_device(config.device)
        torch.set_num_threads(config.num_threads or num_physical_cores())
        sentence = SentenceConfig.load(Path(config.model_path))
        max_model_len = _max_model_len(config, encoder, sentence)
        precision = choose_precision(config, encoder.dtype, device)
        with torch.device(device):
            model = BertModel(encoder, precision)
        _fill(model, config, on_progress)
        size = ModelSize.of(model)
        model.prepare()
        on_progress("warming up", 0, 0)
        default_budget = 1024 if device.type == "cpu" else 16384
        budget = max(config.max_num_batched_tokens or default_budget, max_model_len)
        _warm_up(model, max_model_len, budget // max_model_len if device.type == "cuda" else 1, device)
        own = sentence.pooling or Pooling.MEAN
        info = EngineInfo(
            architecture=encoder.architecture,
            dtype=precision.name,
            device=device.type,
            vocab_size=encoder.vocab_size,
            max_model_len=max_model_len,
            block_size=0,
            num_blocks=0,
            load_seconds=time.monotonic() - started,
            num_step_weights=size.num_step_weights,
            step_weight_bytes=size.step_weight_bytes,
            can_generate=False,
            embedding_dimensions=encoder.hidden_size,
            poolings=(own, *(kind for kind in Pooling if kind is not own)),
            normalizes_embeddings=sentence.normalizes,
        )
        return EncoderRunner(model, info, config.max_num_seqs or budget, budget)


def _max_model_len(config: EngineConfig, encoder: EncoderConfig, sentence: SentenceConfig) -> int:
    """Return the longest input: what is asked for, else what the model was made for."""
    if config.max_model_len is None:
        return min(encoder.max_position, sentence.max_num_tokens or encoder.max_position)
    if config.max_model_len > encoder.max_position:
        raise ModelLoadError(
            f"max_model_len is {config.max_model_len}, beyond the model's {encoder.max_position} positions"
        )
    return config.max_model_len


def _fill(model: BertModel, config: EngineConfig, on_progress: OnProgress) -> None:
    if config.load_format == "dummy":
        fill_with_random(model, config.seed)
        return
    if config.load_format == "gguf":
        raise ModelLoadError("load_format is gguf, but encoders are loaded from safetensors alone")
    weights = read_safetensors(Path(config.model_path))
    used = ((name, weight) for name, weight in weights if not model.unused_weights.fullmatch(name))
    fill(model, used, on_progress)


@torch.inference_mode()
def _warm_up(model: BertModel, length: int, num_seqs: int, device: torch.device) -> None:
    model(EncoderInputs.make([[0] * length] * num_seqs, device))
