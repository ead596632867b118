"""The bounds of `Sampling` and of the log probabilities, and the values in force."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from engine.messages import SamplingParams
from server.fields import is_given

if TYPE_CHECKING:
    from pagewire.v1 import inference_pb2
    from server.fields import Fields
    from server.served_model import ServedModel
    from server.stopping_fields import Lengths

MAX_CHOICES = 128
MAX_CHOICE_TOKENS = 1 << 22
"""Of all choices of a request together: `n` times `max_tokens`."""
MAX_LOGPROBS = 20
MAX_LOGIT_BIASES = 300

# Field of Sampling, its bounds, and whether the lower one is itself refused.
_RANGES = (
    ("temperature", 0, 2, False),
    ("top_p", 0, 1, True),
    ("min_p", 0, 1, False),
    ("repetition_penalty", 0, 10, True),
    ("presence_penalty", -2, 2, False),
    ("frequency_penalty", -2, 2, False),
)
# Beam search follows the model's own probabilities: what would change them has no place there.
_NOT_WITH_BEAMS = (
    "sampling.repetition_penalty",
    "sampling.presence_penalty",
    "sampling.frequency_penalty",
    "sampling.logit_bias",
    "sampling.allowed_token_ids",
    "sampling.bad_words",
    "stopping.stop",
    "output.logprob_token_ids",
    "constraint",
)
_NEUTRAL = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}


def sampling_params(
    fields: Fields,
    spec: inference_pb2.GenerationSpec,
    model: ServedModel,
    lengths: Lengths,
    max_logprobs: int,
) -> SamplingParams:
    """Check `spec.sampling` and the log probabilities. Return the sampling values of choice 0."""
    given, output, defaults = spec.sampling, spec.output, model.defaults

    def number(name: str, default: float | None, fallback: float) -> float:
        value: float = getattr(given, name)
        return value if is_given(given, name) else fallback if default is None else default

    _check_ranges(fields, given, model.info.vocab_size)
    return SamplingParams(
        max_tokens=lengths.max_tokens,
        temperature=number("temperature", defaults.temperature, 1.0),
        top_k=max(0, int(number("top_k", defaults.top_k, 0))),
        top_p=number("top_p", defaults.top_p, 1.0),
        min_p=number("min_p", defaults.min_p, 0.0),
        repetition_penalty=number("repetition_penalty", defaults.repetition_penalty, 1.0),
        presence_penalty=given.presence_penalty,
        frequency_penalty=given.frequency_penalty,
        seed=given.seed if given.HasField("seed") else secrets.randbits(63),
        logit_bias=_logit_bias(fields, given, model.info.vocab_size),
        min_tokens=lengths.min_tokens,
        eos_token_ids=lengths.eos_token_ids,
        stop_token_ids=lengths.stop_token_ids,
        num_logprobs=_num_logprobs(fields, output, "logprobs", max_logprobs),
        num_prompt_logprobs=_num_logprobs(fields, output, "prompt_logprobs", max_logprobs),
    )


def num_choices(
    fields: Fields, given: inference_pb2.Sampling, sampling: SamplingParams, vocab_size: int
) -> int:
    """Check how many choices are asked for, and return it."""
    path = "spec.sampling.n"
    count = given.n if given.HasField("n") else 1
    is_search = given.HasField("beam_search")
    # A beam may be followed by two tokens for each one that is kept.
    fields.within(path, count, 1, min(MAX_CHOICES, vocab_size // 2) if is_search else MAX_CHOICES)
    if 1 < count <= MAX_CHOICES and count * sampling.max_tokens > MAX_CHOICE_TOKENS:
        fields.refuse(path, f"{count} choices of {sampling.max_tokens} tokens are more than"
                            f" {MAX_CHOICE_TOKENS} tokens together; lower n or max_tokens")  # fmt: skip
    if count > 1 and sampling.temperature == 0 and not is_search:
        fields.refuse(path, f"{count} choices of greedy sampling would be the same; expected 1, or a"
                            " temperature above 0, or beam_search")  # fmt: skip
    return count


def length_penalty(fields: Fields, spec: inference_pb2.GenerationSpec) -> float | None:
    """Check what beam search excludes. Return the exponent; None without beam search."""
    if not spec.sampling.HasField("beam_search"):
        return None
    search = spec.sampling.beam_search
    for path in _NOT_WITH_BEAMS:
        name = path.rpartition(".")[2]
        value = getattr(spec.sampling, name, None)
        if is_given(spec, path) and (name not in _NEUTRAL or value != _NEUTRAL[name]):
            fields.refuse(f"spec.{path}", "not with beam_search, which follows the model's probabilities")
    exponent = search.length_penalty if search.HasField("length_penalty") else 1.0
    fields.within("spec.sampling.beam_search.length_penalty", exponent, -10, 10)
    return exponent


def _check_ranges(fields: Fields, given: inference_pb2.Sampling, vocab_size: int) -> None:
    for name, low, high, above_low in _RANGES:
        if is_given(given, name):
            fields.within(f"spec.sampling.{name}", getattr(given, name), low, high, above_low=above_low)
    if given.HasField("top_k"):
        fields.within("spec.sampling.top_k", given.top_k, -1, vocab_size)


def _logit_bias(fields: Fields, given: inference_pb2.Sampling, vocab_size: int) -> dict[int, float]:
    path = "spec.sampling.logit_bias"
    fields.at_most(path, given.logit_bias, MAX_LOGIT_BIASES, "entries")
    unknown = sorted(token_id for token_id in given.logit_bias if token_id >= vocab_size)
    if unknown:
        shown = ", ".join(map(str, unknown[:8])) + (", …" if len(unknown) > 8 else "")
        fields.refuse(path, f"not token ids: {shown}; expected less than {vocab_size}, the vocabulary size")
    for token_id, bias in given.logit_bias.items():
        fields.finite(f"{path}[{token_id}]", bias)
    return {token_id: min(max(bias, -100.0), 100.0) for token_id, bias in given.logit_bias.items()}


def _num_logprobs(fields: Fields, output: inference_pb2.OutputOptions, name: str, most: int) -> int | None:
    if not is_given(output, name):
        return None
    value: int = getattr(output, name)
    fields.within(f"spec.output.{name}", value, 0, min(most, MAX_LOGPROBS))
    return value
