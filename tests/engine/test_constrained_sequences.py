"""A small random model follows grammars: whatever it would rather say, all that it says is valid."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hand_plans import load_runner, make_device_resident
from running_core import RunningCore
from schema_check import problem_of
from schema_set import ENDLESS, SCHEMAS
from tiny_model import END_OF_TEXT_ID, IM_END_ID, IM_START_ID, make_tiny_model, make_tokenizer

from engine.messages import Abort, EngineRequest, FinishReason, SamplingParams, Submit, Vocabulary
from server.grammars import Grammar, json_part, regex_part
from server.token_bytes import TokenBytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from engine.messages import RequestOutput
    from server.grammars import Part

VOCAB_SIZE = 320
"""More than the tokenizer has: a model's vocabulary is padded."""


class Model:
    def __init__(self, core: RunningCore, token_bytes: TokenBytes, max_steps_in_flight: int) -> None:
        self.server = core.server
        self.max_steps_in_flight = max_steps_in_flight
        self._token_bytes = token_bytes
        self._num_requests = 0

    def request(self, part: Part | None, **sampling: Any) -> EngineRequest:
        self._num_requests += 1
        values = {"max_tokens": 400, "eos_token_ids": (IM_END_ID,), "seed": self._num_requests, **sampling}
        grammar = "" if part is None else Grammar("", "start: @answer", (("answer", part),)).text
        prompt = [self._num_requests % 200 + 3] * 5
        return EngineRequest(f"r{self._num_requests}", prompt, SamplingParams(**values), grammar=grammar)

    def run(self, requests: Sequence[EngineRequest]) -> list[list[RequestOutput]]:
        self.server.send(*map(Submit, requests))
        outputs = self.server.outputs_until_end_of(*(request.request_id for request in requests))
        return [outputs[request.request_id] for request in requests]

    def answer(self, part: Part, **sampling: Any) -> tuple[str, FinishReason | None]:
        (outputs,) = self.run([self.request(part, **sampling)])
        return self.text_of(outputs), outputs[-1].finish_reason

    def text_of(self, outputs: list[RequestOutput]) -> str:
        token_ids = tokens_of(outputs)
        if outputs[-1].finish_reason is FinishReason.STOP:
            token_ids = token_ids[:-1]
        return b"".join(map(self._token_bytes, token_ids)).decode()


def tokens_of(outputs: list[RequestOutput]) -> list[int]:
    return [token_id for output in outputs for token_id in output.token_ids]


@pytest.fixture(scope="module", params=[1, 2], ids=["one-step-in-flight", "two-steps-in-flight"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder = make_tiny_model(tmp_path_factory.mktemp("model"), vocab_size=VOCAB_SIZE)
    runner = load_runner(folder, num_blocks=600)
    if request.param == 2:
        make_device_resident(runner)
        runner.max_steps_in_flight = 2
    core = RunningCore(runner)
    token_bytes = TokenBytes(make_tokenizer())
    tokens = [token_bytes(token_id) for token_id in range(make_tokenizer().get_vocab_size())]
    with core.server:
        core.server.wait_ready()
        core.server.send(Vocabulary(tokens, [END_OF_TEXT_ID, IM_START_ID, IM_END_ID], [IM_END_ID]))
        yield Model(core, token_bytes, request.param)
    core.wait_ended()


def test_every_schema_is_followed(model: Model) -> None:
    schemas = list(SCHEMAS.items())[:: 1 if model.max_steps_in_flight == 1 else 7]
    requests = [model.request(json_part(schema), max_tokens=1200) for _, schema in schemas]
    num_cut = 0
    for (name, schema), outputs in zip(schemas, model.run(requests), strict=True):
        if outputs[-1].finish_reason is FinishReason.LENGTH:
            num_cut += 1
            continue
        problem = problem_of(schema, model.text_of(outputs))
        assert problem is None, f"{name}: {problem}"
    assert num_cut < len(schemas) / 10


def test_a_grammar_that_ends_ends_the_sequence(model: Model) -> None:
    text, reason = model.answer(regex_part("[0-9]{3}-[a-f]{2}"))
    assert re.fullmatch("[0-9]{3}-[a-f]{2}", text)
    assert reason is FinishReason.COMPLETE


def test_it_ends_also_where_end_tokens_are_ignored_or_must_wait(model: Model) -> None:
    assert model.answer(regex_part("ab"), eos_token_ids=()) == ("ab", FinishReason.COMPLETE)
    assert model.answer(regex_part("ab"), min_tokens=50) == ("ab", FinishReason.COMPLETE)


def test_a_text_that_may_end_ends_by_the_models_token(model: Model) -> None:
    text, reason = model.answer(regex_part("a+"), logit_bias={IM_END_ID: 100.0})
    assert (text, reason) == ("a", FinishReason.STOP)
    text, reason = model.answer(regex_part("a+"), logit_bias={IM_END_ID: 100.0}, min_tokens=6)
    assert len(text) >= 6
    assert reason is FinishReason.STOP


def test_free_sequences_are_not_disturbed(model: Model) -> None:
    free = model.request(None, max_tokens=30)
    (alone,) = model.run([free])
    again = EngineRequest("again", free.prompt_token_ids, free.sampling)
    others = [model.request(json_part(schema)) for schema in list(SCHEMAS.values())[:12]]
    together = model.run([*others[:6], again, *others[6:]])[6]
    assert tokens_of(together) == tokens_of(alone)


def test_a_seed_decides_what_is_said(model: Model) -> None:
    first, second = (model.request(json_part(SCHEMAS["flat_object-6"]), seed=seed) for seed in (1, 2))
    again = msgspec.structs.replace(first, request_id="the first again")
    other = msgspec.structs.replace(second, request_id="another", prompt_token_ids=first.prompt_token_ids)
    texts = [tokens_of(outputs) for outputs in model.run([first, again, other])]
    assert texts[0] == texts[1] != texts[2]


def test_log_probabilities_are_those_of_the_model(model: Model) -> None:
    (outputs,) = model.run([model.request(regex_part("ab"), num_logprobs=1)])
    logprobs = [one for output in outputs for one in output.logprobs]
    assert len(logprobs) == len(tokens_of(outputs))
    assert any(one.rank > 1 for one in logprobs)


def test_bad_grammars_and_conflicts_fail_alone(model: Model) -> None:
    bad = model.request(regex_part("(a"))
    conflict = model.request(regex_part("b"), allowed_token_ids=(3,))
    good = model.request(regex_part("ab"))
    before = model.server.stats
    failed, stuck, said = model.run([bad, conflict, good])
    assert (failed[-1].finish_reason, failed[-1].error) == (FinishReason.FAILED, "bad_grammar")
    assert (stuck[-1].finish_reason, stuck[-1].error) == (FinishReason.FAILED, "no_token")
    assert model.text_of(said) == "ab"
    after = model.server.stats
    assert (after.num_failed - before.num_failed, after.num_finished - before.num_finished) == (2, 1)


def test_a_sequence_may_leave_at_any_time(model: Model) -> None:
    requests = [model.request(json_part(ENDLESS["recursive-9"])) for _ in range(8)]
    before = model.server.stats
    for request in requests:
        model.server.send(Submit(request), Abort(request.request_id))
    outputs = model.server.outputs_until_end_of(*(request.request_id for request in requests))
    assert {each[-1].finish_reason for each in outputs.values()} == {FinishReason.ABORTED}
    assert model.server.stats.num_aborted - before.num_aborted == len(requests)
    assert model.answer(regex_part("ab"))[0] == "ab"
