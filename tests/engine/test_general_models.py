from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers
from greedy import generate_with_scheduler, generate_with_transformers, random_prompt
from hand_plans import HandPlans, load_runner
from safetensors.torch import load_file, save_file
from tiny_decoders import DECODERS, WINDOW, make_tiny_decoder, make_tiny_decoder_model
from tiny_model import make_tiny_model

from engine.errors import ModelLoadError
from engine.general_config import GeneralConfig
from engine.messages import SamplingParams
from engine.model_loading import load_config
from engine.models.general import GeneralCausalLM
from engine.models.general_attention import window_of
from engine.precision import Precision

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from engine.model_runner import ModelRunner

NUM_NEW_TOKENS = 24
PROMPT_LENS = (1, 9, 26, 45)
FLOAT32 = Precision(*[torch.float32] * 4)


def load_reference(folder: Path) -> Any:
    auto: Any = transformers.AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def check_logprobs(runner: ModelRunner, reference: Any, prompt: list[int]) -> None:
    plans = HandPlans(runner)
    sampling = SamplingParams(max_tokens=1, temperature=0.0, num_prompt_logprobs=1)
    row = plans.admit(prompt, sampling=sampling)
    entries = list(plans.step({row: 7}).prompt_logprobs[row])
    entries += plans.step([row]).prompt_logprobs[row]
    plans.finish()
    with torch.inference_mode():
        expected = reference(torch.tensor([prompt])).logits[0].log_softmax(-1)
    assert [entry.logprob for entry in entries] == pytest.approx(
        [expected[position, token].item() for position, token in enumerate(prompt[1:])], abs=1e-3
    )


@pytest.mark.parametrize("model_type", DECODERS)
def test_equals_transformers(tmp_path: Path, model_type: str) -> None:
    """With chunked prompts, several sequences at once, prefixes from the cache, and preemption."""
    torch.set_num_threads(1)
    folder = make_tiny_decoder(tmp_path, model_type)
    reference, runner = load_reference(folder), load_runner(folder, model_impl="transformers")
    assert runner.info.architecture == type(reference).__name__
    prompts = [random_prompt(length) for length in PROMPT_LENS]
    expected = [generate_with_transformers(reference, prompt, NUM_NEW_TOKENS) for prompt in prompts]
    outputs, scheduler = generate_with_scheduler(runner, [*prompts, *prompts[2:]], 14, 40, NUM_NEW_TOKENS)
    assert outputs == [*expected, *expected[2:]]
    assert scheduler.stats().num_preemptions > 0
    assert scheduler.stats().num_prefix_hit_tokens > 0
    check_logprobs(runner, reference, prompts[-1])


def rewrite_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | fields
    path.write_text(json.dumps(config), encoding="utf-8")


def rewrite_weights(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "model.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(change(weights), path, {"format": "pt"})


def greedy_tokens(runner: ModelRunner) -> list[list[int]]:
    prompts = [random_prompt(length) for length in (3, 20)]
    return generate_with_scheduler(runner, prompts, 32, 64)[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equals_our_page(tmp_path: Path, dtype: Any) -> None:
    folder = make_tiny_model(tmp_path, "llama3", dtype=dtype)
    ours = load_runner(folder, dtype=dtype)
    theirs = load_runner(folder, dtype=dtype, model_impl="transformers")
    assert greedy_tokens(ours) == greedy_tokens(theirs)
    assert theirs.info.architecture == ours.info.architecture == "LlamaForCausalLM"
    assert theirs.info.num_step_weights == ours.info.num_step_weights
    assert theirs.info.step_weight_bytes == ours.info.step_weight_bytes
    assert theirs.info.kv_bytes_per_token == ours.info.kv_bytes_per_token


def test_what_no_page_computes_takes_the_slower_way_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = load_config(make_tiny_decoder(tmp_path / "yarn", "llama"), "auto")
    assert isinstance(config, GeneralConfig)
    assert "LlamaForCausalLM runs through transformers' attention interface" in caplog.text
    assert "'yarn'" in caplog.text
    assert not isinstance(load_config(make_tiny_model(tmp_path / "llama"), "auto"), GeneralConfig)


def test_shards_and_tied_weights_load(tmp_path: Path) -> None:
    model = make_tiny_decoder_model("gemma")
    assert model.config.tie_word_embeddings
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    expected = greedy_tokens(load_runner(tmp_path / "whole"))
    assert greedy_tokens(load_runner(tmp_path / "shards")) == expected
    rewrite_weights(
        tmp_path / "whole",
        lambda weights: weights | {"lm_head.weight": weights["model.embed_tokens.weight"] + 0},
    )
    assert greedy_tokens(load_runner(tmp_path / "whole")) == expected


def test_weights_named_as_in_the_first_gpt2_load(tmp_path: Path) -> None:
    folder = make_tiny_decoder(tmp_path, "gpt2")
    expected = greedy_tokens(load_runner(folder))
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 8, 8) for layer in range(2)}
    rewrite_weights(
        folder,
        lambda weights: masks | {name.removeprefix("transformer."): weights[name] for name in weights},
    )
    assert greedy_tokens(load_runner(folder)) == expected


def test_dummy_weights_are_seeded(tmp_path: Path) -> None:
    folder = make_tiny_decoder(tmp_path, "mixtral")
    (folder / "model.safetensors").unlink()
    first, same, other = (
        greedy_tokens(load_runner(folder, load_format="dummy", seed=seed)) for seed in (1, 1, 2)
    )
    assert first == same != other


def drop(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda weights: {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("transformer.h.1.ln_2.bias"), r"1 weights are missing.*h\.1\.ln_2\.bias"),
        (lambda weights: weights | {"transformer.h.9.odd": torch.ones(2)}, r"not part.*h\.9\.odd"),
        (lambda weights: weights | {"transformer.wpe.weight": torch.ones(2, 64)}, r"wrong shape.*wpe.*2, 64"),
    ],
)
def test_refuses_wrong_weights(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
) -> None:
    folder = make_tiny_decoder(tmp_path, "gpt2")
    rewrite_weights(folder, change)
    with pytest.raises(ModelLoadError, match=message):
        load_runner(folder)


def test_refuses_a_folder_without_safetensors(tmp_path: Path) -> None:
    folder = make_tiny_decoder(tmp_path, "gpt2")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match=r"no \.safetensors"):
        load_runner(folder)


@pytest.mark.parametrize(
    ("model_type", "fields", "message"),
    [
        ("bloom", {}, r"BloomForCausalLM \(model type 'bloom'\).*ALiBi"),
        ("falcon", {"alibi": True}, "FalconForCausalLM.*ALiBi"),
        ("falcon", {}, "FalconForCausalLM.*attention interface"),
        ("mamba", {}, "MambaForCausalLM.*recurrent state"),
        ("deepseek_v3", {}, "DeepseekV3ForCausalLM.*latent attention"),
        ("llama4_text", {}, "Llama4ForCausalLM.*chunked_attention"),
        ("gemma3", {}, "Gemma3ForConditionalGeneration.*more than a decoder"),
        ("t5", {"architectures": ["T5ForConditionalGeneration"]}, "T5ForConditionalGeneration.*no causal"),
        ("bert", {"architectures": ["BertForMaskedLM"]}, "BertForMaskedLM.*BertLMHeadModel"),
        ("gemma", {"quantization_config": {"quant_method": "awq", "bits": 4}}, "quantised"),
        ("gemma", {"dtype": "float64"}, "float64"),
        ("gemma", {"num_hidden_layers": "two"}, "num_hidden_layers"),
        ("unheard_of", {"model_type": "unheard_of"}, "unheard_of"),
    ],
)
def test_refuses_by_its_config(tmp_path: Path, model_type: str, fields: dict[str, Any], message: str) -> None:
    configs: Any = transformers.AutoConfig
    if model_type != "unheard_of":
        configs.for_model(model_type).save_pretrained(tmp_path)
        rewrite_config(tmp_path, **fields)
    else:
        (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(ModelLoadError, match=message):
        load_config(tmp_path, "auto")


def test_never_runs_code_of_the_folder(tmp_path: Path) -> None:
    fields = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}, "architectures": ["Own"]}
    (tmp_path / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    (tmp_path / "own.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    with pytest.raises(ModelLoadError, match="'own', and code that comes with a model is never run"):
        load_config(tmp_path, "auto")


def test_refuses_a_mask_that_is_not_causal(tmp_path: Path) -> None:
    folder = make_tiny_decoder(tmp_path, "bert")
    with pytest.raises(ModelLoadError, match=r"BertLMHeadModel is not supported.*neither causal nor"):
        load_runner(folder)


def test_refuses_attention_outside_the_interface(tmp_path: Path) -> None:
    folder = make_tiny_decoder(tmp_path, "openai-gpt", n_positions=64)
    with pytest.raises(ModelLoadError, match=r"OpenAIGPTLMHeadModel.*attention interface"):
        load_runner(folder)


def test_refuses_what_mixes_tokens_outside_attention(tmp_path: Path) -> None:
    folder = make_tiny_decoder(tmp_path, "gpt2")
    transformer = make_tiny_decoder_model("gpt2")
    transformer.transformer.h[0].mlp.register_forward_hook(lambda _, __, output: output.cumsum(1))
    model = GeneralCausalLM(GeneralConfig.load(folder), transformer, 64, FLOAT32)
    with pytest.raises(ModelLoadError, match=r"\d+ of 36 tokens have other logits"):
        model.prepare()


def test_a_rotation_that_changes_with_length_bounds_the_length(tmp_path: Path) -> None:
    factors = [1.0] * 8
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": factors,
        "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 64,
    }
    folder = make_tiny_decoder(tmp_path, "phi3", rope_parameters=rope, original_max_position_embeddings=64)
    config = GeneralConfig.load(folder)
    assert config.max_model_len(None) == 64
    with pytest.raises(ModelLoadError, match="65, beyond the model's original context length"):
        config.max_model_len(65)


def causal(_: Tensor, __: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return key <= query


def test_windows_are_read_from_masks() -> None:
    def sliding(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return causal(batch, head, query, key) & (key > query - WINDOW)

    def chunked(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return causal(batch, head, query, key) & (key // WINDOW == query // WINDOW)

    cpu = torch.device("cpu")
    assert window_of(causal, 100, cpu) is None
    assert window_of(sliding, 100, cpu) == WINDOW
    assert window_of(sliding, WINDOW, cpu) is None
    assert window_of(chunked, WINDOW, cpu) is None
    with pytest.raises(ModelLoadError, match="neither causal nor a sliding window"):
        window_of(chunked, 100, cpu)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("model_type", DECODERS)
def test_equals_transformers_on_a_gpu(tmp_path: Path, model_type: str) -> None:
    folder = make_tiny_decoder(tmp_path, model_type)
    reference = load_reference(folder)
    runner = load_runner(folder, model_impl="transformers", device="cuda")
    prompts = [random_prompt(length) for length in PROMPT_LENS]
    outputs, _ = generate_with_scheduler(runner, [*prompts, *prompts[2:]], 14, 40, NUM_NEW_TOKENS)
    for prompt, output in zip([*prompts, *prompts[2:]], outputs, strict=True):
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt + output[:-1]])).logits[0, -NUM_NEW_TOKENS:]
        assert output == logits.argmax(-1).tolist()
