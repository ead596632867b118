"""A loaded model, ready to run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from engine.adapters import Adapters
from engine.cache_sizing import choose_num_blocks
from engine.errors import ModelLoadError
from engine.host import num_physical_cores
from engine.kv_cache import KVCacheShape
from engine.limits import Limits, choose_device
from engine.messages import EngineInfo, SamplingParams
from engine.model_loading import load_config, load_model
from engine.model_size import ModelSize
from engine.pooler import decoder_poolings
from engine.precision import choose_precision
from engine.sentence_config import SentenceConfig
from engine.step import Admission, Chunk, StepPlan
from engine.step_runner import StepRunner

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.config import EngineConfig
    from engine.models.causal_lm import CausalLM
    from engine.pending_step import PendingStep
    from engine.step import StepResult

NUM_WARM_UP_SEQS = 33
NUM_WARM_UP_TOKENS = 128
"""Of a step that joins decodes and a prompt; there is a graph for it."""


class ModelRunner:
    """Runs the steps of one loaded model."""

    def __init__(self, info: EngineInfo, limits: Limits, steps: StepRunner, adapters: Adapters) -> None:
        self.info = info
        """What was loaded and measured."""
        self.max_num_seqs = limits.max_num_seqs
        self.max_num_batched_tokens = limits.max_num_batched_tokens
        self._steps = steps
        self._adapters = adapters
        self.max_steps_in_flight = 1 if info.device == "cpu" else 2

    def launch(self, plan: StepPlan) -> PendingStep:
        """Begin a step. A plan without chunks only changes the rows."""
        return self._steps.launch(plan)

    def execute(self, plan: StepPlan) -> StepResult:
        """Run a step to its end."""
        return self._steps.launch(plan).collect()

    def load_adapter(self, adapter: int, path: str) -> int:
        """Read a LoRA adapter into memory under this id, and return its rank. Any thread may call it.

        Raises:
            AdapterError: it cannot be used with this model.
        """
        return self._adapters.load(adapter, path)

    def unload_adapter(self, adapter: int) -> None:
        """Forget an adapter."""
        self._adapters.unload(adapter)

    @staticmethod
    def load(config: EngineConfig, on_progress: Callable[[str, int, int], None]) -> ModelRunner:
        """Load a model, size its cache and run a first forward pass.

        Args:
            config: what to load and how.
            on_progress: called with a stage's name and the units done and in total, 0 where unknown.

        Raises:
            ModelLoadError: the model cannot be served; the text says why.
        """
        started = time.monotonic()
        path = Path(config.model_path)
        device = choose_device(config.device)
        torch.set_num_threads(config.num_threads or num_physical_cores())
        model_config = load_config(path, config.model_impl)
        sentence = SentenceConfig.load(path)
        limits = Limits.choose(config, model_config, device)
        precision = choose_precision(config, model_config.dtype, device)
        model = load_model(model_config, config, path, limits.max_model_len, precision, device, on_progress)
        size = ModelSize.of(model)
        model.prepare()
        like = torch.empty(0, dtype=precision.activations, device=device)
        adapters = Adapters(model, config.max_loras, config.max_lora_rank, like)
        on_progress("warming up", 0, 0)
        shape = KVCacheShape.of(model.kv_sizes, limits.block_size, precision.kv_cache)
        num_blocks = choose_num_blocks(
            config, limits, shape, device, lambda: _run_largest_step(model, shape, limits, device, adapters)
        )
        max_model_len = _fitting_len(config, limits, num_blocks)
        steps = _make_steps(model, shape, num_blocks, limits, device, adapters)
        _warm_up(steps, limits, num_seqs=1, num_tokens=min(limits.block_size, max_model_len))
        if device.type == "cuda":
            num_tokens = min(limits.max_num_batched_tokens, max_model_len)
            for adapter_slot in range(min(2, config.max_loras + 1)):
                _warm_up(steps, limits, 1, num_tokens, adapter_slot)
            if model.is_capturable:
                on_progress("capturing graphs", 0, 0)
                steps.capture()
            _warm_up_beside_decodes(steps, limits)
        info = EngineInfo(
            architecture=model_config.architecture,
            dtype=precision.name,
            device=device.type,
            vocab_size=model_config.vocab_size,
            max_model_len=max_model_len,
            block_size=limits.block_size,
            num_blocks=num_blocks,
            load_seconds=time.monotonic() - started,
            num_step_weights=size.num_step_weights,
            step_weight_bytes=size.step_weight_bytes,
            kv_bytes_per_token=shape.bytes_per_block // limits.block_size,
            embedding_dimensions=model_config.hidden_size,
            poolings=decoder_poolings(sentence.pooling),
            normalizes_embeddings=sentence.normalizes,
        )
        return ModelRunner(info, limits, steps, adapters)


def _make_steps(
    model: CausalLM,
    shape: KVCacheShape,
    num_blocks: int,
    limits: Limits,
    device: torch.device,
    adapters: Adapters,
) -> StepRunner:
    is_device_resident = device.type == "cuda"
    caches = shape.allocate(num_blocks, device)
    return StepRunner(model, caches, limits, device, adapters, is_device_resident=is_device_resident)


def _warm_up(
    steps: StepRunner, limits: Limits, num_seqs: int, num_tokens: int, adapter_slot: int = 0
) -> None:
    """Compute sequences of zeros, all in the cache's first block, and forget them again.

    A slot, which is empty yet, lets them use what adds nothing.
    """
    sampling = SamplingParams(max_tokens=1, top_p=0.9, top_k=50)
    rows = range(num_seqs)
    block_ids = (0,) * -(-num_tokens // limits.block_size)
    mask = b"\xff" * (-(-steps.vocab_size // 32) * 4)
    plan = StepPlan(
        released_rows=(),
        admissions=tuple(
            Admission(row, [0] * num_tokens, num_tokens, sampling, adapter_slot=adapter_slot) for row in rows
        ),
        chunks=tuple(Chunk(row, 0, num_tokens, block_ids, samples=True, mask=mask) for row in rows),
    )
    steps.launch(plan).collect()
    steps.launch(StepPlan(released_rows=tuple(rows), admissions=(), chunks=()))


def _warm_up_beside_decodes(steps: StepRunner, limits: Limits) -> None:
    """Compute the beginning of a prompt as long as may be beside decodes, all in the cache's first block.

    A GPU loads code when it is first used, and memory of the host is pinned then: streams would wait for that
    when the first prompt arrives beside them.
    """
    num_decodes = min(limits.max_num_seqs, limits.max_num_batched_tokens, NUM_WARM_UP_SEQS) - 1
    num_tokens = min(
        limits.max_num_batched_tokens - num_decodes, limits.max_model_len - 1, NUM_WARM_UP_TOKENS
    )
    if num_decodes < 1 or num_tokens < 2:
        return
    sampling = SamplingParams(max_tokens=1)
    known = [[0]] * num_decodes + [[0] * limits.max_model_len]
    block_ids = (0,) * -(-num_tokens // limits.block_size)
    plan = StepPlan(
        released_rows=(),
        admissions=tuple(
            Admission(row, token_ids, len(token_ids), sampling) for row, token_ids in enumerate(known)
        ),
        chunks=(
            *(Chunk(row, 0, 1, (0,), samples=True) for row in range(num_decodes)),
            Chunk(num_decodes, 0, num_tokens, block_ids, samples=False),
        ),
    )
    steps.launch(plan).collect()
    steps.launch(StepPlan(released_rows=tuple(range(num_decodes + 1)), admissions=(), chunks=()))


def _run_largest_step(
    model: CausalLM, shape: KVCacheShape, limits: Limits, device: torch.device, adapters: Adapters
) -> None:
    """Run the step that needs the most memory, over a cache of one block."""
    num_seqs = min(limits.max_num_seqs, limits.max_num_batched_tokens)
    num_tokens = min(limits.max_num_batched_tokens // num_seqs, limits.max_model_len)
    steps = _make_steps(model, shape, 1, limits, device, adapters)
    _warm_up(steps, limits, num_seqs, num_tokens, min(adapters.num_slots, 1))


def _fitting_len(config: EngineConfig, limits: Limits, num_blocks: int) -> int:
    """Return the longest sequence that the cache holds.

    Raises:
        ModelLoadError: it is shorter than the config asks for.
    """
    capacity = num_blocks * limits.block_size
    if config.max_model_len is not None and capacity < config.max_model_len:
        raise ModelLoadError(
            f"the KV cache holds {capacity} tokens, fewer than max_model_len = {config.max_model_len}"
        )
    return min(limits.max_model_len, capacity)
