"""The encoder against transformers: a small random BERT, in ragged batches of any size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_bert import MAX_POSITION, make_tiny_bert, random_ids

from engine.config import EngineConfig
from engine.encoder_config import EncoderConfig
from engine.encoder_runner import EncoderRunner
from engine.encoder_scheduler import EncoderScheduler
from engine.errors import AdapterError, ModelLoadError, RequestTooLargeError
from engine.messages import EngineRequest, FinishReason, Pooling, SamplingParams

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ONE = SamplingParams(max_tokens=1)


def load(folder: Path, **config: Any) -> EncoderRunner:
    encoder = EncoderConfig.find(folder)
    assert encoder is not None
    settings_ = EngineConfig(model_path=str(folder), device="cpu", num_threads=1, **config)
    return EncoderRunner.load(settings_, encoder, lambda *_: None)


@dataclass
class Bert:
    model: Any
    runner: EncoderRunner

    def expected(self, token_ids: Sequence[int], pooling: Pooling) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            hidden = self.model(torch.tensor([list(token_ids)])).last_hidden_state[0]
        vector = {Pooling.CLS: hidden[0], Pooling.LAST: hidden[-1], Pooling.MEAN: hidden.mean(0)}[pooling]
        return np.asarray(vector.numpy())


@pytest.fixture(scope="module", params=["gelu", "gelu_new", "relu"])
def bert(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bert:
    folder = tmp_path_factory.mktemp(request.param)
    return Bert(make_tiny_bert(folder, hidden_act=request.param), load(folder))


def pooled(name: str, token_ids: Sequence[int], pooling: Pooling = Pooling.MEAN) -> EngineRequest:
    return EngineRequest(name, list(token_ids), ONE, pooling=pooling)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=st.lists(
        st.tuples(st.integers(1, MAX_POSITION), st.sampled_from(list(Pooling))), min_size=1, max_size=24
    ),
    budget=st.integers(MAX_POSITION, 300),
    max_num_seqs=st.integers(1, 30),
    depth=st.integers(1, 2),
)
def test_vectors_are_those_of_transformers(
    bert: Bert, asked: list[tuple[int, Pooling]], budget: int, max_num_seqs: int, depth: int
) -> None:
    scheduler = EncoderScheduler(max_num_seqs, budget, MAX_POSITION)
    prompts = [random_ids(length, index) for index, (length, _) in enumerate(asked)]
    for index, (_, pooling) in enumerate(asked):
        scheduler.add(pooled(str(index), prompts[index], pooling))
    vectors: dict[str, np.ndarray[Any, Any]] = {}
    in_flight = []
    while scheduler.has_requests:
        plan = scheduler.schedule()
        if plan is not None:
            assert len(plan.admissions) <= max_num_seqs
            assert sum(len(each.token_ids) for each in plan.admissions) <= budget
            in_flight.append((plan, bert.runner.launch(plan)))
        if plan is None or len(in_flight) == depth:
            planned, pending = in_flight.pop(0)
            for output in scheduler.update(planned, pending.collect()):
                assert output.finish_reason is FinishReason.STOP
                assert output.embedding is not None
                vectors[output.request_id] = np.frombuffer(output.embedding, "<f4")
    for index, (_, pooling) in enumerate(asked):
        expected = bert.expected(prompts[index], pooling)
        np.testing.assert_allclose(vectors[str(index)], expected, rtol=1e-3, atol=1e-4)
    stats = scheduler.stats()
    assert (stats.num_finished, stats.num_running, stats.num_waiting) == (len(asked), 0, 0)


def test_an_aborted_sequence_brings_nothing(bert: Bert) -> None:
    scheduler = EncoderScheduler(2, MAX_POSITION, MAX_POSITION)
    for name in ("runs", "waits", "waits too"):
        scheduler.add(pooled(name, [1, 2]))
    plan = scheduler.schedule()
    assert plan is not None
    for name in ("runs", "waits too"):
        aborted = scheduler.abort(name)
        assert aborted is not None
        assert aborted.finish_reason is FinishReason.ABORTED
    assert scheduler.abort("nobody") is None
    (output,) = scheduler.update(plan, bert.runner.launch(plan).collect())
    assert output.request_id == "waits"
    assert not scheduler.has_requests
    assert scheduler.schedule() is None
    assert scheduler.stats().num_aborted == 2


def test_a_sequence_that_is_too_long_is_refused() -> None:
    scheduler = EncoderScheduler(2, MAX_POSITION, 10)
    with pytest.raises(RequestTooLargeError):
        scheduler.add(pooled("long", [1] * 11))


def test_a_vector_that_is_not_finite_fails_its_sequence(bert: Bert, tmp_path: Path) -> None:
    make_tiny_bert(tmp_path)
    runner = load(tmp_path)
    weight = runner._model.embeddings.word_embeddings.weight
    weight.data[5] = float("nan")
    scheduler = EncoderScheduler(8, MAX_POSITION, MAX_POSITION)
    scheduler.add(pooled("bad", [1, 5]))
    scheduler.add(pooled("good", [1, 2]))
    plan = scheduler.schedule()
    assert plan is not None
    reasons = {
        output.request_id: (output.finish_reason, output.error)
        for output in scheduler.update(plan, runner.launch(plan).collect())
    }
    assert reasons == {"bad": (FinishReason.FAILED, "numerical_error"), "good": (FinishReason.STOP, None)}


def write_sentence_files(folder: Path, *kinds: str, pooling: dict[str, Any] | None = None) -> None:
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": kind} for kind in kinds]
    modules[0]["path"] = ""
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "Pooling").mkdir(exist_ok=True)
    (folder / "Pooling" / "config.json").write_text(json.dumps(pooling or {"pooling_mode_cls_token": True}))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')


def test_what_the_model_says_of_itself(tmp_path: Path) -> None:
    make_tiny_bert(tmp_path)
    plain = load(tmp_path).info
    assert (plain.max_model_len, plain.can_generate, plain.embedding_dimensions) == (64, False, 32)
    assert (plain.poolings[0], plain.normalizes_embeddings) == (Pooling.MEAN, True)
    write_sentence_files(tmp_path, "Transformer", "Pooling")
    own = load(tmp_path).info
    assert own.max_model_len == 24
    assert (own.poolings[0], own.normalizes_embeddings) == (Pooling.CLS, False)
    assert set(own.poolings) == set(Pooling)
    assert load(tmp_path, max_model_len=40).info.max_model_len == 40
    write_sentence_files(tmp_path, "Transformer", "Pooling", "Normalize")
    assert load(tmp_path).info.normalizes_embeddings


@pytest.mark.parametrize(
    ("kinds", "pooling", "message"),
    [
        (("Transformer", "Pooling", "Dense"), {}, "Transformer, Pooling, Dense are not supported"),
        (("Transformer",), {}, "are not supported"),
        (("Transformer", "Pooling"), {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens is not"),
        (
            ("Transformer", "Pooling"),
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            "pooling_mode_cls_token and pooling_mode_mean_tokens",
        ),
        (
            ("Transformer", "Pooling"),
            {"pooling_mode_cls_token": True, "include_prompt": False},
            "include_prompt",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(
    tmp_path: Path, kinds: tuple[str, ...], pooling: dict[str, Any], message: str
) -> None:
    make_tiny_bert(tmp_path)
    write_sentence_files(tmp_path, *kinds, pooling=pooling)
    with pytest.raises(ModelLoadError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"max_model_len": MAX_POSITION + 1}, "beyond the model's 64 positions"),
        ({"load_format": "gguf"}, "safetensors alone"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    make_tiny_bert(tmp_path)
    with pytest.raises(ModelLoadError, match=message):
        load(tmp_path, **config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_act": "swish"}, "'swish' is not supported"),
        ({"position_embedding_type": "relative_key"}, "'relative_key' is not supported"),
        ({"is_decoder": True}, "as a decoder"),
        ({"num_attention_heads": 5}, "do not fit together"),
        ({"vocab_size": None}, "config.json"),
        ({"dtype": "int8"}, "'int8' is not supported"),
    ],
)
def test_configs_that_are_not_supported_are_named(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    make_tiny_bert(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(ModelLoadError, match=message):
        EncoderConfig.find(tmp_path)


def test_decoders_are_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    assert EncoderConfig.find(tmp_path) is None
    (tmp_path / "config.json").write_text("[")
    assert EncoderConfig.find(tmp_path) is None
    assert EncoderConfig.find(tmp_path / "model.gguf") is None


def test_random_weights_run_too(tmp_path: Path) -> None:
    make_tiny_bert(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    runner = load(tmp_path, load_format="dummy")
    scheduler = EncoderScheduler(8, MAX_POSITION, MAX_POSITION)
    scheduler.add(pooled("one", [1, 2, 3]))
    plan = scheduler.schedule()
    assert plan is not None
    (output,) = scheduler.update(plan, runner.launch(plan).collect())
    assert output.finish_reason is FinishReason.STOP


def test_adapters_are_refused(bert: Bert) -> None:
    with pytest.raises(AdapterError, match="takes no adapters"):
        bert.runner.load_adapter(1, "somewhere")
