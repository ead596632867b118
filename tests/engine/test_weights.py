from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hand_plans import HandPlans, load_runner
from safetensors.torch import load_file, save_file
from tiny_model import FAMILIES, make_tiny_model

from engine.errors import ModelLoadError
from engine.model_config import ModelConfig
from engine.models import MODELS
from engine.precision import Precision
from engine.weights import INDEX_FILE, destinations, fill_with_random, load_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tiny_model import Family
    from torch import Tensor

    from engine.models.decoder import PagedDecoder

FLOAT32 = Precision(*[torch.float32] * 4)
PROMPT = [5, 9, 33, 200, 7]


def empty_model(folder: Path) -> PagedDecoder:
    config = ModelConfig.load(folder)
    return MODELS[config.architecture](config, 64, FLOAT32)


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def load(folder: Path) -> None:
    load_weights(empty_model(folder), folder, "auto", 0, lambda *_: None)


def first_token(folder: Path) -> int:
    return HandPlans(load_runner(folder)).step_once(PROMPT)[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_of_the_checkpoint_has_one_place(tmp_path: Path, family: Family) -> None:
    folder = make_tiny_model(tmp_path, family)
    targets = destinations(empty_model(folder))
    weights = load_file(folder / "model.safetensors")
    assert {name: target.shape for name, target in targets.items()} == {
        name: weight.shape for name, weight in weights.items()
    }


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path)
    reports: list[tuple[str, int, int]] = []
    load_weights(empty_model(folder), folder, "auto", 0, lambda *report: reports.append(report))
    stages, done, totals = zip(*reports, strict=True)
    assert set(stages) == {"loading weights"}
    assert list(done) == sorted(done)
    assert {done[-1]} == set(totals)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("model.layers.1.self_attn.k_proj.weight"), "missing.*k_proj"),
        (
            lambda weights: weights.update({"model.layers.2.mlp.up_proj.weight": torch.ones(1)}),
            "layers.2.*not part",
        ),
        (lambda weights: weights.update({"model.norm.weight": torch.ones(65)}), r"model.norm.weight.*65.*64"),
        (lambda weights: weights.update({"model.norm.bias": torch.ones(64)}), "model.norm.bias.*not part"),
    ],
)
def test_refuses_weights_that_do_not_fit(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], message: str
) -> None:
    folder = make_tiny_model(tmp_path)
    rewrite(folder, change)
    with pytest.raises(ModelLoadError, match=message):
        load(folder)


def test_weights_that_are_computed_are_ignored(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path)
    expected = first_token(folder)
    tied = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    rewrite(
        folder,
        lambda weights: weights.update(
            {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8), "lm_head.weight": tied.clone()}
        ),
    )
    assert first_token(folder) == expected


def test_reads_files_that_an_index_names(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path)
    expected = first_token(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"part-{index % 2}.safetensors" for index, name in enumerate(sorted(weights))}
    for file in set(places.values()):
        save_file({name: weights[name] for name in places if places[name] == file}, folder / file)
    save_file({"unrelated": torch.ones(1)}, folder / "consolidated.safetensors")
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": places}), encoding="utf-8")
    assert first_token(folder) == expected
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(ModelLoadError, match="part-1"):
        load(folder)


@pytest.mark.parametrize("index", ["{}", "[]", "nonsense", '{"weight_map": 3}'])
def test_refuses_a_malformed_index(tmp_path: Path, index: str) -> None:
    folder = make_tiny_model(tmp_path)
    (folder / INDEX_FILE).write_text(index, encoding="utf-8")
    with pytest.raises(ModelLoadError, match="not an index"):
        load(folder)


def test_refuses_missing_and_truncated_files(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelLoadError, match=r"model\.safetensors"):
        load(folder)
    file.unlink()
    with pytest.raises(ModelLoadError, match=r"no \.safetensors files"):
        load(folder)


def test_dummy_weights_depend_on_the_seed_alone(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, "qwen2")
    models = [empty_model(folder) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        fill_with_random(model, seed)
    first, equal, other = (dict(model.named_parameters()) for model in models)
    assert all(torch.equal(first[name], equal[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_dummy_logits_are_apart(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, "llama3")
    (folder / "model.safetensors").unlink()
    plans = HandPlans(load_runner(folder, load_format="dummy", seed=3))
    row = plans.admit(PROMPT)
    for _ in range(32):
        plans.step([row])
    assert len(set(plans.tokens[row])) > 16
