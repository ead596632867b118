"""LoRA adapters against peft, in float32."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from greedy import generate_with_transformers, random_prompt
from hand_plans import HandPlans, load_runner, make_device_resident
from safetensors.torch import load_file, save_file
from tiny_adapter import ALL, SETTINGS, make_tiny_adapter, with_adapter
from tiny_decoders import make_tiny_decoder, make_tiny_decoder_model
from tiny_model import make_tiny_model, make_tiny_transformer

from engine.errors import AdapterError
from engine.messages import EngineRequest, SamplingParams
from engine.scheduler import Scheduler
from engine.step import StepPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from engine.model_runner import ModelRunner

NUM_NEW_TOKENS = 12
PROMPTS = [random_prompt(length) for length in (1, 9, 40)]
NAMES = ("", *SETTINGS)
GREEDY = SamplingParams(max_tokens=NUM_NEW_TOKENS, temperature=0.0)
PROBED = SamplingParams(max_tokens=1, temperature=0.0, num_logprobs=20)


class Kin:
    """A base model, its adapters, and what greedy decoding must give: ids are places in NAMES."""

    def __init__(self, base: Path, make_model: Callable[[], Any], folder: Path, **settings: Any) -> None:
        torch.set_num_threads(1)
        self.base = base
        self.models = {"": make_model()}
        self.folders: dict[str, Path] = {}
        for name, fields in SETTINGS.items():
            self.folders[name] = make_tiny_adapter(folder / name, make_model, **(fields | settings))
            self.models[name] = with_adapter(make_model(), self.folders[name])
        self.expected = {
            name: [generate_with_transformers(model, prompt, NUM_NEW_TOKENS) for prompt in PROMPTS]
            for name, model in self.models.items()
        }

    def load(self, max_loras: int) -> ModelRunner:
        runner = load_runner(self.base, max_loras=max_loras)
        for number, name in enumerate(NAMES):
            if name:
                runner.load_adapter(number, str(self.folders[name]))
        return runner


@pytest.fixture(scope="module", params=["smollm2", "qwen3", "qwen2"])
def kin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kin:
    folder = tmp_path_factory.mktemp(request.param)
    base = make_tiny_model(folder / "base", request.param)
    return Kin(base, partial(make_tiny_transformer, request.param), folder)


@pytest.fixture(scope="module")
def runner(kin: Kin) -> ModelRunner:
    return kin.load(max_loras=3)


def generate(
    runner: ModelRunner, requests: Sequence[tuple[int, Sequence[int]]], max_loras: int, budget: int = 64
) -> list[list[int]]:
    """Greedy outputs for (adapter, prompt) under a scheduler, all at once."""
    sizes = (96, runner.info.block_size, runner.max_num_seqs, budget, runner.info.max_model_len)
    scheduler = Scheduler(*sizes, max_loras=max_loras)
    outputs: list[list[int]] = [[] for _ in requests]
    for index, (adapter, prompt) in enumerate(requests):
        scheduler.add(EngineRequest(str(index), list(prompt), GREEDY, adapter=adapter))
    while (plan := scheduler.schedule()) is not None:
        for output in scheduler.update(plan, runner.execute(plan)):
            outputs[int(output.request_id)] += output.token_ids
    released_rows = tuple(scheduler._running.released_rows)
    runner.execute(StepPlan(released_rows, (), ()))  # leaves the rows to the next test
    return outputs


ALL_REQUESTS = [(number, prompt) for prompt in PROMPTS for number in range(len(NAMES))]


def expected_of(kin: Kin) -> list[list[int]]:
    return [kin.expected[NAMES[number]][PROMPTS.index(list(prompt))] for number, prompt in ALL_REQUESTS]


def test_the_adapters_change_what_is_generated(kin: Kin) -> None:
    outputs = [str(kin.expected[name][-1]) for name in NAMES]
    assert len(set(outputs)) == len(NAMES)


def test_batched_with_each_other_and_the_base_model_equals_peft(kin: Kin, runner: ModelRunner) -> None:
    assert generate(runner, ALL_REQUESTS, max_loras=3) == expected_of(kin)


@pytest.mark.parametrize("max_loras", [1, 2])
def test_more_adapters_than_slots_equal_peft(kin: Kin, max_loras: int) -> None:
    assert generate(kin.load(max_loras), ALL_REQUESTS, max_loras, budget=24) == expected_of(kin)


def test_alone_equals_peft(kin: Kin, runner: ModelRunner) -> None:
    for number, name in enumerate(NAMES):
        (output,) = generate(runner, [(number, PROMPTS[1])], max_loras=3)
        assert output == kin.expected[name][1]


def test_steps_without_the_host_equal_peft(kin: Kin) -> None:
    runner = kin.load(max_loras=3)
    make_device_resident(runner)
    assert generate(runner, ALL_REQUESTS, max_loras=3) == expected_of(kin)


def test_log_probabilities_are_close_to_peft(kin: Kin, runner: ModelRunner) -> None:
    for number, name in enumerate(NAMES):
        plans = HandPlans(runner)
        row = plans.admit(PROMPTS[2], sampling=PROBED, adapter=number, adapter_slot=number)
        (sampled,) = plans.step([row]).sampled
        plans.finish()
        assert sampled.logprobs is not None
        with torch.no_grad():
            logits = kin.models[name](torch.tensor([PROMPTS[2]])).logits[0, -1]
        expected = logits.log_softmax(-1)
        for token_id, logprob in sampled.logprobs.top:
            assert abs(logprob - float(expected[token_id])) < 1e-4


def test_an_unloaded_adapter_is_forgotten_and_its_slot_is_another_s(kin: Kin) -> None:
    runner = kin.load(max_loras=1)
    assert generate(runner, [(1, PROMPTS[1])], 1) == [kin.expected["small"][1]]
    runner.unload_adapter(1)
    assert generate(runner, [(2, PROMPTS[1])], 1) == [kin.expected["wide"][1]]
    assert generate(runner, [(0, PROMPTS[1])], 1) == [kin.expected[""][1]]


@pytest.mark.parametrize("model_type", ["gpt2", "stablelm"])
def test_adapters_of_any_decoder_equal_peft(tmp_path: Path, model_type: str) -> None:
    make_model = partial(make_tiny_decoder_model, model_type)
    kin = Kin(
        make_tiny_decoder(tmp_path / "base", model_type),
        make_model,
        tmp_path,
        target_modules="all-linear",
        rank_pattern={},
        layers_to_transform=None,
    )
    assert generate(kin.load(max_loras=3), ALL_REQUESTS, max_loras=3) == expected_of(kin)


# What is refused


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny_runner(tiny: Path) -> ModelRunner:
    return load_runner(tiny, max_loras=1)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    make_model = partial(make_tiny_transformer, "smollm2")
    return make_tiny_adapter(tmp_path / "a", make_model, r=4, target_modules=ALL)


def change_config(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refusal(runner: ModelRunner, folder: Path) -> str:
    with pytest.raises(AdapterError) as caught:
        runner.load_adapter(1, str(folder))
    return str(caught.value)


def test_loads_and_says_its_rank(tiny_runner: ModelRunner, adapter: Path) -> None:
    assert tiny_runner.load_adapter(1, str(adapter)) == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_dora": True}, "use_dora is true, which is not supported"),
        ({"modules_to_save": ["lm_head"]}, 'modules_to_save is ["lm_head"], which is not supported'),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is [1]"),
        ({"lora_bias": True}, "lora_bias is true"),
        ({"target_parameters": ["x"]}, 'target_parameters is ["x"]'),
        ({"a_field_of_tomorrow": 3}, "a_field_of_tomorrow is 3"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
        ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"r": 0}, "a rank of 0"),
        ({"r": "8"}, "Expected `int`"),
        ({"target_modules": "("}, "adapter_config.json"),
        (
            {"target_modules": ["v_proj"], "layers_to_transform": [0], "layers_pattern": "layers["},
            "adapter_config.json",
        ),
        ({"rank_pattern": {"q_proj": 4, "k_proj(": 4}}, "adapter_config.json"),
        ({"alpha_pattern": {"q_proj": 4, "x{99999999999999999999}": 4}}, "adapter_config.json"),
        ({"target_modules": "(" * 5000 + ")" * 5000}, "adapter_config.json"),
        ({"target_modules": ["lm_head"]}, "it changes lm_head, which is not supported"),
        ({"target_modules": ["query"]}, "target_modules names nothing in this model"),
        ({"r": 32}, "its rank is 32; the server takes at most 16"),
        ({"rank_pattern": {"k_proj": 17}}, "its rank is 17"),
        ({"r": 5}, "(4, 64) of torch.float32; this model needs (5, 64)"),
        ({"target_modules": ALL[:-1]}, "not named by its config or not part of this model"),
        ({"layers_to_transform": [0]}, "base_model.model.model.layers.1."),
    ],
)
def test_refuses_a_config_by_name(
    tiny_runner: ModelRunner, adapter: Path, fields: dict[str, Any], message: str
) -> None:
    change_config(adapter, **fields)
    assert message in refusal(tiny_runner, adapter)


def test_refuses_missing_and_foreign_weights(tiny_runner: ModelRunner, adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({key: value for key, value in weights.items() if key != name}, file)
    assert f"1 weights are missing, among them {name}" in refusal(tiny_runner, adapter)
    save_file(weights | {"extra": torch.zeros(1)}, file)
    assert "extra" in refusal(tiny_runner, adapter)
    save_file(weights | {name: torch.full_like(weights[name], torch.nan)}, file)
    assert "not finite" in refusal(tiny_runner, adapter)
    save_file(weights | {name: weights[name].int()}, file)
    assert "torch.int32" in refusal(tiny_runner, adapter)


def test_refuses_an_adapter_of_another_base_model(tiny_runner: ModelRunner, tmp_path: Path) -> None:
    make_model = partial(make_tiny_transformer, "smollm2", hidden_size=32)
    other = make_tiny_adapter(tmp_path / "other", make_model, r=4, target_modules=ALL)
    assert "this model needs" in refusal(tiny_runner, other)
    deeper = partial(make_tiny_transformer, "smollm2", num_hidden_layers=3)
    other = make_tiny_adapter(tmp_path / "deeper", deeper, r=4, target_modules=ALL)
    assert "layers.2" in refusal(tiny_runner, other)


def test_never_unpickles(tiny_runner: ModelRunner, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert "adapter_model.bin is pickled" in refusal(tiny_runner, adapter)


def test_refuses_what_is_not_there_or_not_readable(
    tiny_runner: ModelRunner, adapter: Path, tmp_path: Path
) -> None:
    assert "adapter_config.json: cannot be read" in refusal(tiny_runner, tmp_path / "nowhere")
    (adapter / "adapter_model.safetensors").write_bytes(b"not safetensors")
    assert "adapter_model.safetensors: cannot be read" in refusal(tiny_runner, adapter)
    (adapter / "adapter_config.json").write_text("[" * 100_000)
    assert "adapter_config.json: cannot be read" in refusal(tiny_runner, adapter)
    (adapter / "adapter_config.json").write_text("[]")
    assert "expected a JSON object" in refusal(tiny_runner, adapter)
