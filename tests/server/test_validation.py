"""The boundary table of every number in a request, and everything else that is refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from fakes import END_ID, INFO, fake_model
from google.protobuf import json_format

from engine.messages import SamplingParams
from pagewire.v1 import chat_pb2, inference_pb2
from server.errors import InvalidRequestError
from server.generation_defaults import GenerationDefaults
from server.validation import validate

if TYPE_CHECKING:
    from server.generation_request import GenerationRequest
    from server.served_model import ServedModel

VOCAB = INFO.vocab_size
CONTEXT = INFO.max_model_len
NAN, INF = math.nan, math.inf
INT32, INT64, UINT32 = 2**31 - 1, 2**63 - 1, 2**32 - 1

# Path, values that are taken, values that are refused. Values beyond a field's type cannot be sent.
NUMBERS: list[tuple[str, list[float], list[float]]] = [
    ("sampling.temperature", [0, 1e-6, 1, 2], [-0.1, 2.1, NAN, INF, -INF, 1e30]),
    ("sampling.top_k", [-1, 0, 1, VOCAB], [-2, VOCAB + 1, INT32, -INT32]),
    ("sampling.top_p", [1e-6, 0.5, 1], [0, -0.1, 1.1, NAN, INF, -INF]),
    ("sampling.min_p", [0, 0.5, 1], [-0.1, 1.1, NAN, INF, -INF]),
    ("sampling.repetition_penalty", [1e-6, 1, 10], [0, -1, 10.5, NAN, INF, -INF]),
    ("sampling.presence_penalty", [-2, 0, 2], [-2.1, 2.1, NAN, INF, -INF]),
    ("sampling.frequency_penalty", [-2, 0, 2], [-2.1, 2.1, NAN, INF, -INF]),
    ("sampling.seed", [-INT64 - 1, -1, 0, 1, INT64], []),
    ("sampling.n", [1, 128], [0, 129, UINT32]),
    ("sampling.beam_search.length_penalty", [-10, 0, 1, 10], [-11, 11, NAN, INF]),
    ("stopping.max_tokens", [1, CONTEXT], [0, CONTEXT + 1, UINT32]),
    ("stopping.min_tokens", [0, CONTEXT], [CONTEXT + 1, UINT32]),
    ("output.logprobs", [0, 20], [21, UINT32]),
    ("output.prompt_logprobs", [0, 20], [21, UINT32]),
    ("output.min_delta_tokens", [1, UINT32], [0]),
    ("truncate_prompt_tokens", [-1, 1, CONTEXT], [-2, 0, CONTEXT + 1, INT32, -INT32]),
    ("truncation_side", [0, 1, 2], [3, -1, INT32]),
    ("scheduling.priority", [-INT32 - 1, 0, INT32], []),
    ("scheduling.queue_timeout.seconds", [1, 10**9], [0, -1]),
]


def model(defaults: GenerationDefaults | None = None) -> ServedModel:
    return fake_model(defaults=defaults or GenerationDefaults())


def spec_with(path: str, value: Any) -> inference_pb2.GenerationSpec:
    spec = inference_pb2.GenerationSpec(text="hello")
    *parents, name = path.split(".")
    message: Any = spec
    for parent in parents:
        message = getattr(message, parent)
        message.SetInParent()
    setattr(message, name, value)
    return spec


def check(
    spec: inference_pb2.GenerationSpec, defaults: GenerationDefaults | None = None
) -> GenerationRequest:
    return validate(spec, model(defaults), max_logprobs=20)


def refused(spec: inference_pb2.GenerationSpec) -> list[str]:
    """Paths of the refused fields."""
    with pytest.raises(InvalidRequestError) as raised:
        check(spec)
    return [violation.field for violation in raised.value.violations]


TAKEN = [(path, value) for path, taken, _ in NUMBERS for value in taken]
REFUSED = [(path, value) for path, _, refused in NUMBERS for value in refused]


@pytest.mark.parametrize(("path", "value"), TAKEN)
def test_numbers_within_their_bounds_are_taken(path: str, value: float) -> None:
    check(spec_with(path, value))


@pytest.mark.parametrize(("path", "value"), REFUSED)
def test_numbers_beyond_their_bounds_are_refused_by_their_path(path: str, value: float) -> None:
    spec = spec_with(path, value)
    with pytest.raises(InvalidRequestError) as raised:
        check(spec)
    (violation,) = raised.value.violations
    assert violation.field == f"spec.{path}".removesuffix(".seconds")
    shown = str(value) if isinstance(value, int) else f"{value:g}"
    assert violation.description.startswith(f"{shown} ")
    assert "expected" in violation.description


def test_every_number_of_the_contract_is_in_the_table() -> None:
    covered = {path.removesuffix(".seconds") for path, _, _ in NUMBERS}
    # Elsewhere in this file, or refused as a whole.
    covered |= {"sampling.allowed_token_ids", "stopping.stop_token_ids", "output.logprob_token_ids"}
    spec = inference_pb2.GenerationSpec.DESCRIPTOR
    for name in ("sampling", "stopping", "output", "scheduling"):
        message = spec.fields_by_name[name].message_type
        assert message is not None
        for field in message.fields:
            is_number = field.cpp_type not in (
                field.CPPTYPE_STRING,
                field.CPPTYPE_BOOL,
                field.CPPTYPE_MESSAGE,
            )
            assert not is_number or f"{name}.{field.name}" in covered, field.full_name


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("prompt", {}),
        ("text", {"text": ""}),
        ("token_ids", {"token_ids": {}}),
        ("token_ids.ids[1]", {"token_ids": {"ids": [1, VOCAB]}}),
        ("stopping.stop", {"text": "a", "stopping": {"stop": list("abcde")}}),
        ("stopping.stop[1]", {"text": "a", "stopping": {"stop": ["a", ""]}}),
        ("stopping.stop[0]", {"text": "a", "stopping": {"stop": ["a" * 257]}}),
        ("stopping.stop_token_ids", {"text": "a", "stopping": {"stop_token_ids": [1] * 65}}),
        ("stopping.stop_token_ids[0]", {"text": "a", "stopping": {"stop_token_ids": [VOCAB]}}),
        ("stopping.min_tokens", {"text": "a", "stopping": {"max_tokens": 2, "min_tokens": 3}}),
        ("sampling.logit_bias", {"text": "a", "sampling": {"logit_bias": {VOCAB: 1}}}),
        ("sampling.logit_bias[7]", {"text": "a", "sampling": {"logit_bias": {7: "NaN"}}}),
        ("sampling.n", {"text": "a", "sampling": {"n": 2, "temperature": 0}}),
        ("sampling.n", {"text": "a", "sampling": {"n": 129, "beam_search": {}}}),
        ("sampling.presence_penalty", {"text": "a", "sampling": {"presence_penalty": 1, "beam_search": {}}}),
        ("sampling.logit_bias", {"text": "a", "sampling": {"logit_bias": {1: 1}, "beam_search": {}}}),
        ("stopping.stop", {"text": "a", "stopping": {"stop": ["x"]}, "sampling": {"beam_search": {}}}),
        ("cache.salt", {"text": "a", "cache": {"salt": "s" * 129}}),
        ("cache.salt", {"text": "a", "cache": {"salt": "a@b"}}),
        ("cache.salt", {"text": "a", "cache": {"salt": "a\0b"}}),
        ("chat.messages", {"chat": {}}),
        ("chat.messages[0].role", {"chat": {"messages": [{"text": "a"}]}}),
        ("chat.messages[0]", {"chat": {"messages": [{"role": "user"}]}}),
        ("chat.messages[0].parts", {"chat": {"messages": [{"role": "user", "parts": {}}]}}),
        ("chat.messages[0].parts[0]", {"chat": {"messages": [{"role": "user", "parts": {"parts": [{}]}}]}}),
        (
            "chat.messages[0].parts[0].image_url",
            {"chat": {"messages": [{"role": "user", "parts": {"parts": [{"image_url": "x"}]}}]}},
        ),
        ("chat.tool_choice", {"chat": {"messages": [{"role": "u", "text": ""}], "tool_choice": {}}}),
        (
            "chat.tool_choice",
            {"chat": {"messages": [{"role": "u", "text": ""}], "tool_choice": {"function_name": "f"}}},
        ),
        (
            "chat.template_arguments_json",
            {"chat": {"messages": [{"role": "u", "text": ""}], "template_arguments_json": "[]"}},
        ),
        (
            "chat.template_arguments_json",
            {"chat": {"messages": [{"role": "u", "text": ""}], "template_arguments_json": '{"a": NaN}'}},
        ),
        (
            "chat.template_arguments_json",
            {"chat": {"messages": [{"role": "u", "text": ""}], "template_arguments_json": "[" * 100_000}},
        ),
    ],
)
def test_other_bad_values_are_refused_by_their_path(path: str, fields: dict[str, Any]) -> None:
    spec = json_format.ParseDict(fields, inference_pb2.GenerationSpec())
    assert refused(spec) == [f"spec.{path}"]


def test_sizes_at_their_limits_are_taken() -> None:
    spec = inference_pb2.GenerationSpec(text="a")
    spec.stopping.stop.extend(["a" * 256] * 4)
    spec.stopping.stop_token_ids.extend([1] * 64)
    spec.sampling.logit_bias.update(dict.fromkeys(range(VOCAB), 1.0))
    spec.cache.salt = "s" * 128
    check(spec)
    many = inference_pb2.GenerationSpec(chat=chat_pb2.Chat())
    many.chat.messages.extend([chat_pb2.Message(role="user", text="a")] * 2048)
    check(many)
    many.chat.messages.add(role="user", text="a")
    assert refused(many) == ["spec.chat.messages"]


def test_all_refused_fields_are_reported_together() -> None:
    spec = inference_pb2.GenerationSpec(text="a")
    spec.sampling.temperature, spec.sampling.top_p, spec.output.logprobs = 3, 2, 99
    assert refused(spec) == ["spec.sampling.temperature", "spec.sampling.top_p", "spec.output.logprobs"]


def test_defaults_are_the_models_own_and_then_the_contracts() -> None:
    spec = inference_pb2.GenerationSpec(text="a")
    assert check(spec).sampling.temperature == 1.0
    defaults = GenerationDefaults(temperature=0.5, top_k=7, max_new_tokens=9, eos_token_ids=(3, END_ID))
    request = check(spec, defaults)
    assert (request.sampling.temperature, request.sampling.top_k) == (0.5, 7)
    assert request.sampling.eos_token_ids == (END_ID, 3)
    assert request.sampling.max_tokens == 9
    spec.sampling.temperature = 0
    assert check(spec, defaults).sampling.temperature == 0


def test_beams_take_what_asks_for_nothing_and_more_than_one_greedy_choice() -> None:
    spec = inference_pb2.GenerationSpec(text="a")
    spec.sampling.beam_search.SetInParent()
    spec.sampling.n, spec.sampling.temperature, spec.sampling.top_p = 4, 0, 0.5
    spec.sampling.presence_penalty, spec.sampling.repetition_penalty = 0, 1
    assert check(spec).length_penalty == 1
    assert check(inference_pb2.GenerationSpec(text="a")).length_penalty is None


def test_all_unknown_ids_of_a_bias_are_listed() -> None:
    spec = inference_pb2.GenerationSpec(text="a")
    spec.sampling.logit_bias.update({1: 1.0, VOCAB + 1: 1.0, VOCAB: 1.0})
    with pytest.raises(InvalidRequestError, match=f"not token ids: {VOCAB}, {VOCAB + 1}; expected less"):
        check(spec)


def test_lengths_are_cut_to_what_the_context_leaves() -> None:
    spec = inference_pb2.GenerationSpec(text="a")
    assert check(spec).for_prompt(28, CONTEXT).max_tokens == CONTEXT - 28
    spec.stopping.max_tokens = spec.stopping.min_tokens = 100
    sampling = check(spec).for_prompt(100, CONTEXT)
    assert (sampling.max_tokens, sampling.min_tokens) == (28, 28)


@pytest.mark.parametrize("seed", [0, 5, INT64, -INT64 - 1])
def test_choices_draw_from_seeds_of_their_own(seed: int) -> None:
    spec = spec_with("sampling.seed", seed)
    request = check(spec)
    seeds = [request.for_choice(request.sampling, index).seed for index in range(4)]
    assert len(set(seeds)) == 4
    assert seeds[0] == seed
    assert all(-(2**63) <= one < 2**63 for one in seeds)


def test_logit_bias_is_clamped_and_top_k_minus_one_keeps_all() -> None:
    spec = inference_pb2.GenerationSpec(text="a")
    spec.sampling.logit_bias.update({1: 1000.0, 2: -1000.0})
    spec.sampling.top_k = -1
    sampling = check(spec).sampling
    assert sampling.logit_bias == {1: 100.0, 2: -100.0}
    assert sampling.top_k == 0


def test_a_request_without_a_seed_gets_a_fresh_one() -> None:
    spec = inference_pb2.GenerationSpec(text="a")
    assert check(spec).sampling.seed != check(spec).sampling.seed


def test_ending_tokens_that_the_model_does_not_have_are_left_out() -> None:
    defaults = GenerationDefaults(eos_token_ids=(-1, 3, INFO.vocab_size))
    spec = inference_pb2.GenerationSpec(text="a")
    spec.stopping.min_tokens = 1
    assert check(spec, defaults).sampling.eos_token_ids == (END_ID, 3)
    assert model(defaults).vocabulary.eos_token_ids == [END_ID, 3]


def test_ignoring_eos_leaves_no_ending_token() -> None:
    spec = inference_pb2.GenerationSpec(text="a")
    spec.stopping.ignore_eos = True
    assert check(spec).sampling.eos_token_ids == SamplingParams(max_tokens=1).eos_token_ids == ()
