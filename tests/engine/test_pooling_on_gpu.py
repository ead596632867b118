"""Vectors on a GPU, by graphs and beside generation, against those of the CPU in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from tiny_bert import make_tiny_bert, random_ids
from tiny_model import make_tiny_model

from engine.config import EngineConfig
from engine.encoder_config import EncoderConfig
from engine.encoder_runner import EncoderRunner
from engine.encoder_scheduler import EncoderScheduler
from engine.messages import EngineRequest, Pooling, SamplingParams
from engine.model_runner import ModelRunner
from engine.scheduler import Scheduler

if TYPE_CHECKING:
    from pathlib import Path

    from engine.config import Device
    from engine.pending_step import PendingStep
    from engine.step import StepPlan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

LENGTHS = (1, 2, 7, 30, 64)


def vectors_of(
    runner: ModelRunner | EncoderRunner, scheduler: Scheduler | EncoderScheduler, *, generates: bool
) -> dict[str, np.ndarray]:
    """Pool each length in both ways, beside sequences that generate; up to two steps are in flight."""
    for length in LENGTHS:
        for pooling in (Pooling.LAST, Pooling.MEAN):
            name = f"{pooling.name} {length}"
            scheduler.add(
                EngineRequest(name, random_ids(length), SamplingParams(max_tokens=1), pooling=pooling)
            )
        if generates:
            sampling = SamplingParams(max_tokens=12, temperature=0.0)
            scheduler.add(EngineRequest(f"text {length}", random_ids(length, 1), sampling))
    vectors = {}
    in_flight: list[tuple[StepPlan, PendingStep]] = []
    while scheduler.has_requests or in_flight:
        plan = scheduler.schedule()
        if plan is not None:
            in_flight.append((plan, runner.launch(plan)))
        if plan is None or len(in_flight) == runner.max_steps_in_flight:
            planned, pending = in_flight.pop(0)
            for output in scheduler.update(planned, pending.collect()):
                if output.embedding is not None:
                    vectors[output.request_id] = np.frombuffer(output.embedding, "<f4")
    return vectors


def decoder_vectors(folder: Path, device: Device) -> dict[str, np.ndarray]:
    config = EngineConfig(
        model_path=str(folder), device=device, dtype="float32", num_blocks=64, max_num_seqs=16, num_threads=1
    )
    runner = ModelRunner.load(config, lambda *_: None)
    info = runner.info
    scheduler = Scheduler(info.num_blocks, info.block_size, 16, 48, info.max_model_len)
    return vectors_of(runner, scheduler, generates=True)


def encoder_vectors(folder: Path, device: Device) -> dict[str, np.ndarray]:
    encoder = EncoderConfig.find(folder)
    assert encoder is not None
    config = EngineConfig(model_path=str(folder), device=device, num_threads=1)
    runner = EncoderRunner.load(config, encoder, lambda *_: None)
    scheduler = EncoderScheduler(8, 128, runner.info.max_model_len)
    return vectors_of(runner, scheduler, generates=False)


def test_a_decoders_vectors(tmp_path: Path) -> None:
    make_tiny_model(tmp_path, "qwen3")
    expected, found = decoder_vectors(tmp_path, "cpu"), decoder_vectors(tmp_path, "cuda")
    for name, vector in expected.items():
        np.testing.assert_allclose(found[name], vector, rtol=2e-2, atol=2e-2, err_msg=name)


def test_an_encoders_vectors(tmp_path: Path) -> None:
    make_tiny_bert(tmp_path)
    expected, found = encoder_vectors(tmp_path, "cpu"), encoder_vectors(tmp_path, "cuda")
    for name, vector in expected.items():
        np.testing.assert_allclose(found[name], vector, rtol=1e-2, atol=1e-2, err_msg=name)
