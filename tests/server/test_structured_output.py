"""Constraints of requests, over a fake engine: what reaches it, and what is refused before."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest
from calls import Caller, calling, details_of, status_of
from fakes import END_ID, FakeEngine, saying
from google.protobuf import json_format
from schema_set import BOMB

from engine.messages import FinishReason
from pagewire.v1 import inference_pb2

STOP = inference_pb2.FINISH_REASON_STOP


def spec_of(**fields: Any) -> inference_pb2.GenerationSpec:
    return json_format.ParseDict({"text": "hello", **fields}, inference_pb2.GenerationSpec())


async def refused(caller: Caller, **fields: Any) -> list[tuple[str, str]]:
    """Fields and descriptions of what both calls refuse, before anything runs."""
    verdicts = []
    for method in (caller.generate, caller.stream):
        error = await status_of(method(spec_of(**fields)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
        violations = details_of(error)["BadRequest"].field_violations
        verdicts.append([(one.field, one.description) for one in violations])
    assert verdicts[0] == verdicts[1]
    assert caller.engine.requests == []
    return verdicts[0]


async def test_constraints_reach_the_engine_as_grammars_that_compile() -> None:
    async with calling(FakeEngine()) as caller:
        for constraint in ({"regex": "a+"}, {"json_object": True}, {"choices": {"texts": ["a", "b"]}}):
            await caller.generate(spec_of(constraint=constraint))
        await caller.generate(spec_of())
        grammars = [request.grammar for request in caller.engine.requests]
        assert [bool(grammar) for grammar in grammars] == [True, True, True, False]
        assert json.loads(grammars[0])["grammars"][1] == {"name": "answer", "lark_grammar": "start: /a+/"}


async def test_every_choice_follows_the_grammar() -> None:
    async with calling(FakeEngine(saying(END_ID))) as caller:
        await caller.generate(spec_of(constraint={"regex": "a"}, sampling={"n": 3}))
        assert len({request.grammar for request in caller.engine.requests}) == 1


async def test_bad_constraints_are_refused_by_name_before_anything_runs() -> None:
    async with calling(FakeEngine()) as caller:
        for constraint, path, word in (
            ({"regex": "(a"}, "regex", "unclosed group"),
            ({"json_schema": '{"not": {}}'}, "json_schema", "not"),
            ({"json_schema": '{"$ref": "file:///etc/passwd"}'}, "json_schema", "file:///etc/passwd"),
            ({"grammar": "start: missing"}, "grammar", "missing"),
            ({"choices": {}}, "choices.texts", "must not be empty"),
        ):
            ((field, description),) = await refused(caller, constraint=constraint)
            assert field == f"spec.constraint.{path}"
            assert word in description


async def test_others_go_on_while_a_hostile_grammar_is_compiled() -> None:
    async with calling(FakeEngine()) as caller:
        bomb = caller.stream(spec_of(constraint={"json_schema": json.dumps(BOMB)}))
        call = bomb.read()
        for index in range(10):
            response = await caller.generate(spec_of(constraint={"regex": f"a{{{index + 1}}}"}))
            assert response.choices[0].text == "hello"
            assert (await caller.generate(spec_of())).choices[0].text == "hello"
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "takes too long" in (raised.value.details() or "")
        assert len(caller.engine.requests) == 20


async def test_a_grammar_that_ends_is_a_stop_and_keeps_its_last_token() -> None:
    async with calling(FakeEngine(saying(*b"ab"), manual=True)) as caller:
        call = caller.generate(spec_of(constraint={"regex": "ab"}))
        await caller.engine.until(1)
        caller.engine.step()
        caller.engine.step()
        caller.engine.finish(caller.engine.requests[0].request_id, FinishReason.COMPLETE)
        response = await call
        assert response.choices[0].text == "ab"
        assert response.choices[0].end.finish_reason == STOP
        assert response.choices[0].end.WhichOneof("matched") is None
        assert response.usage.num_completion_tokens == 2


@pytest.mark.parametrize(
    ("error", "word"), [("bad_grammar", "too complex"), ("no_token", "no token in common")]
)
async def test_a_grammar_that_cannot_go_on_fails_its_request(error: str, word: str) -> None:
    async with calling(FakeEngine(saying(1), manual=True)) as caller:
        call = caller.generate(spec_of(constraint={"regex": "ab"}))
        await caller.engine.until(1)
        caller.engine.finish(caller.engine.requests[0].request_id, FinishReason.FAILED, error)
        status = await status_of(call)
        assert status.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert word in (status.details() or "")


async def test_tokens_and_words_reach_the_engine() -> None:
    async with calling(FakeEngine()) as caller:
        sampling = {"allowed_token_ids": [1, 7, 1], "bad_words": ["ab", " c"]}
        await caller.generate(
            spec_of(sampling=sampling, output={"logprobs": 2, "logprob_token_ids": [9, 3, 9]})
        )
        params = caller.engine.requests[0].sampling
        assert params.allowed_token_ids == (1, 7)
        assert params.bad_words == (tuple(b"ab"), tuple(b" ab"), tuple(b"c"), tuple(b" c"))
        assert params.logprob_token_ids == (9, 3)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"sampling": {"allowed_token_ids": [260]}}, "sampling.allowed_token_ids[0]"),
        ({"sampling": {"bad_words": ["a", ""]}}, "sampling.bad_words[1]"),
        ({"sampling": {"bad_words": [" "]}}, "sampling.bad_words[0]"),
        ({"sampling": {"bad_words": ["a" * 257]}}, "sampling.bad_words[0]"),
        ({"sampling": {"bad_words": ["a"] * 129}}, "sampling.bad_words"),
        ({"output": {"logprobs": 0, "logprob_token_ids": [260]}}, "output.logprob_token_ids[0]"),
        ({"output": {"logprobs": 0, "logprob_token_ids": [1] * 129}}, "output.logprob_token_ids"),
        ({"output": {"logprob_token_ids": [1]}}, "output.logprob_token_ids"),
    ],
)
async def test_tokens_and_words_out_of_bounds_are_refused(fields: dict[str, Any], path: str) -> None:
    async with calling(FakeEngine()) as caller:
        assert [field for field, _ in await refused(caller, **fields)] == [f"spec.{path}"]
