"""Beams, deltas of a least size and templates of requests, over gRPC and a scripted engine."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from calls import calling, details_of, status_of
from fakes import FakeEngine, fake_model, saying

from pagewire.v1 import chat_pb2, inference_pb2
from server.conversations import parse_chat
from server.errors import InvalidRequestError
from server.fields import Fields
from server.prompts import Prompt
from server.template_renderer import TemplateRenderer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.served_model import ServedModel

Spec = inference_pb2.GenerationSpec


def beams(n: int, max_tokens: int, **fields: Any) -> Spec:
    search = inference_pb2.BeamSearch()
    return Spec(
        text="hi",
        sampling=inference_pb2.Sampling(n=n, beam_search=search),
        stopping=inference_pb2.Stopping(max_tokens=max_tokens),
        **fields,
    )


async def test_beams_come_whole_and_best_first() -> None:
    async with calling(FakeEngine()) as caller:
        options = inference_pb2.OutputOptions(token_ids=True, logprobs=1, prompt_logprobs=0)
        whole = await caller.generate(beams(3, 2, output=options))
        scores = [sum(one.logprob for one in choice.logprobs) for choice in whole.choices]
        assert scores == sorted(scores, reverse=True)
        assert [list(choice.token_ids) for choice in whole.choices] == [[0, 0], [0, 1], [1, 0]]
        assert len(whole.started.prompt_logprobs) == 2
        assert whole.usage.num_completion_tokens == 6
        events = [event async for event in caller.stream(beams(3, 2, output=options))]
        kinds = [event.WhichOneof("event") for event in events]
        assert (kinds[0], {*kinds[1:-1]}, kinds[-1]) == ("started", {"delta"}, "finished")
        deltas = [delta for event in events for delta in event.delta.choices]
        assert [list(delta.token_ids) for delta in deltas] == [[0, 0], [0, 1], [1, 0]]
        assert list(events[-1].finished.choices) == [choice.end for choice in whole.choices]


@pytest.mark.parametrize("is_search", [False, True])
async def test_one_choice_alone_describes_the_prompt(is_search: bool) -> None:
    async with calling(FakeEngine()) as caller:
        options = inference_pb2.OutputOptions(logprobs=1, prompt_logprobs=2)
        spec = beams(4, 2, output=options)
        if not is_search:
            spec.sampling.ClearField("beam_search")
        whole = await caller.generate(spec)
        asked = [request.sampling.num_prompt_logprobs for request in caller.engine.requests]
        assert asked == [2, None, None, None, *([None] if is_search else [])]
        assert [len(one.top) for one in whole.started.prompt_logprobs] == [0, 2]
        assert [len(choice.logprobs) for choice in whole.choices] == [2] * 4
        events = [event async for event in caller.stream(spec)]
        assert events[0].started.prompt_logprobs == whole.started.prompt_logprobs


async def test_a_search_whose_caller_goes_leaves_nothing_behind() -> None:
    async with calling(FakeEngine(manual=True)) as caller:
        call = caller.generate(beams(2, 4))
        await caller.engine.until(1)
        caller.engine.step()
        await caller.engine.until(2)
        call.cancel()
        await caller.engine.until(0)
        assert len(caller.engine.aborted) == 2


async def test_a_lost_engine_ends_a_search() -> None:
    async with calling(FakeEngine(manual=True)) as caller:
        waiting = asyncio.ensure_future(status_of(caller.generate(beams(2, 4))))
        await caller.engine.until(1)
        caller.engine.step()
        await caller.engine.until(2)
        caller.engine.crash()
        assert (await waiting).code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(("least", "sizes"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (100, [7])])
async def test_deltas_have_a_least_size_but_for_the_last(least: int, sizes: Sequence[int]) -> None:
    async with calling(FakeEngine(saying(*b"abcdefg"), manual=True)) as caller:
        spec = Spec(
            text="hi",
            stopping=inference_pb2.Stopping(max_tokens=7),
            output=inference_pb2.OutputOptions(min_delta_tokens=least),
        )
        call = caller.stream(spec)
        await caller.engine.until(1)
        caller.engine.admit()
        assert (await call.read()).WhichOneof("event") == "started"
        got: list[int] = []
        text = ""
        for step in range(1, 8):
            caller.engine.step()
            if step - sum(got) >= least or step == 7:
                (delta,) = (await call.read()).delta.choices
                got.append(delta.num_tokens)
                text += delta.text
        assert (got, text) == (sizes, "abcdefg")
        assert (await call.read()).WhichOneof("event") == "finished"


def served(trusts: bool) -> ServedModel:
    return fake_model(trusts_chat_templates=trusts)


async def rendered(renderer: TemplateRenderer, template: str, trusts: bool) -> str | None:
    chat = chat_pb2.Chat(messages=[chat_pb2.Message(role="user", text="hi")], template=template)
    conversation = parse_chat(Fields(), "spec.chat", chat)
    return (await renderer.rendered(Prompt("spec.chat", conversation=conversation), served(trusts), "")).text


async def test_a_chat_may_bring_its_template_where_that_is_trusted() -> None:
    template = "{{ bos_token }}[{{ messages[0].content }}]"
    async with contextlib.aclosing(TemplateRenderer()) as renderer:
        assert await rendered(renderer, template, trusts=True) == "<begin>[hi]"
        assert await rendered(renderer, "", trusts=False) == "<user>hi\n<assistant>"
        for source, trusts, says in ((template, False, "--trust-request"), ("{% if %}", True, "not valid")):
            with pytest.raises(InvalidRequestError, match=says) as raised:
                await rendered(renderer, source, trusts=trusts)
            assert raised.value.violations[0].field == "spec.chat.template"


async def test_an_untrusted_template_is_refused_before_anything_runs() -> None:
    async with calling(FakeEngine()) as caller:
        chat = chat_pb2.Chat(messages=[chat_pb2.Message(role="user", text="hi")], template="x")
        for call in (caller.generate(Spec(chat=chat)), caller.stream(Spec(chat=chat))):
            error = await status_of(call)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert details_of(error)["BadRequest"].field_violations[0].field == "spec.chat.template"
        assert caller.engine.requests == []


async def test_a_bad_template_variable_is_named() -> None:
    async with calling(FakeEngine()) as caller:
        message = chat_pb2.Message(role="user", text="hi")
        chat = chat_pb2.Chat(messages=[message], template_arguments_json='{"tokenize": true}')
        error = await status_of(caller.generate(Spec(chat=chat)))
        (violation,) = details_of(error)["BadRequest"].field_violations
        assert violation.field == "spec.chat.template_arguments_json"
        assert "'tokenize' is reserved" in violation.description
