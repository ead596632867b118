from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hand_plans import HandPlans, load_runner
from tiny_model import make_tiny_model

from engine import precision
from engine.config import EngineConfig
from engine.errors import ModelLoadError
from engine.precision import choose_precision

if TYPE_CHECKING:
    from pathlib import Path

    from engine.config import DataType

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def config(dtype: DataType, **settings: Any) -> EngineConfig:
    return EngineConfig(model_path="", dtype=dtype, **settings)


def test_the_model_decides_where_nobody_else_does() -> None:
    assert choose_precision(config("auto"), "bfloat16", CUDA).weights == torch.bfloat16
    assert choose_precision(config("float16"), "bfloat16", CUDA).activations == torch.float16
    assert choose_precision(config("auto"), "float16", CUDA).name == "float16"


def test_eight_bits() -> None:
    chosen = choose_precision(config("auto", quantization="fp8", kv_cache_dtype="fp8"), "bfloat16", CUDA)
    assert chosen.quantized == chosen.kv_cache == torch.float8_e4m3fn
    assert chosen.weights == chosen.activations == torch.bfloat16
    assert choose_precision(config("auto"), "bfloat16", CUDA).kv_cache == torch.bfloat16
    with pytest.raises(ModelLoadError, match="needs bfloat16"):
        choose_precision(config("float16", quantization="fp8"), "bfloat16", CUDA)


def test_a_cpu_computes_in_float32_and_rounds_what_it_has_instructions_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: False)
    chosen = choose_precision(config("bfloat16"), "float32", CPU)
    assert chosen.name == "bfloat16"
    assert chosen.weights == torch.bfloat16
    assert chosen.activations == chosen.factors == torch.float32
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: True)
    chosen = choose_precision(config("bfloat16"), "float32", CPU)
    assert chosen.activations == chosen.kv_cache == torch.float32
    assert chosen.factors == torch.bfloat16
    for dtype in ("float16", "float32"):
        assert choose_precision(config(dtype), "bfloat16", CPU).factors == torch.float32


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_precision_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: DataType, *, native: bool
) -> None:
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: native)
    runner = load_runner(make_tiny_model(tmp_path, "qwen3"), dtype=dtype)
    assert runner.info.dtype == dtype
    plans = HandPlans(runner)
    rows = [plans.admit([5, 9, 33]), plans.admit([7])]
    for _ in range(4):
        plans.step(rows)
    assert all(token >= 0 for row in rows for token in plans.tokens[row])
