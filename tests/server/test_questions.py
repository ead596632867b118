"""Tokenize, Detokenize and RenderChat: admitted like all requests; a flood of them holds up nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest
from calls import details_of, status_of
from fakes import FakeEngine, serve
from google.protobuf import duration_pb2

from gate.key_ring import KeyRing
from gate.keys import parse_key
from pagewire.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    chat_pb2,
    inference_pb2,
    inference_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
)
from server.tenants import Tenants
from server.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fakes import FakeServer

TIMEOUT_S = 60.0
KEYS = KeyRing([parse_key(f"{name}:key-of-{name}") for name in ("flood", "light")])
CHAT = chat_pb2.Chat(messages=[chat_pb2.Message(role="user", text="x")])


class HeldTexts:
    """Texts that begin with "held": a thread that encodes one stands until the test lets all go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._may_go_on = threading.Event()
        self._encode = Tokenizer.encode
        hold = self._hold
        monkeypatch.setattr(Tokenizer, "encode", lambda *arguments: hold(*arguments))

    def let_go(self) -> None:
        self._may_go_on.set()

    def _hold(self, tokenizer: Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
        if text.startswith("held"):
            self._loop.call_soon_threadsafe(self.begun.put_nowait, text)
            assert self._may_go_on.wait(2 * TIMEOUT_S)
        return self._encode(tokenizer, text, add_special_tokens)


class House:
    """A server, and its callers by tenant."""

    def __init__(self, server: FakeServer, public: grpc.aio.Channel, admin: grpc.aio.Channel) -> None:
        self.engine = server.engine
        self.admission = server.services.admission
        self.models: Any = models_pb2_grpc.ModelServiceStub(public)
        self.admin: Any = admin_pb2_grpc.AdminServiceStub(admin)
        self._inference: Any = inference_pb2_grpc.InferenceServiceStub(public)

    def tokenize(self, tenant: str, text: str = "hi", **call: Any) -> Any:
        return self.models.Tokenize(models_pb2.TokenizeRequest(text=text), **shows(tenant), **call)

    def generate(self, tenant: str, text: str = "hi") -> Any:
        request = inference_pb2.GenerateRequest(spec=inference_pb2.GenerationSpec(text=text))
        return self._inference.Generate(request, **shows(tenant), timeout=TIMEOUT_S)

    async def until_live(self, num_live: int) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while self.admission.num_live != num_live:  # noqa: ASYNC110 - a count tells nobody
                await asyncio.sleep(0)


def shows(tenant: str) -> dict[str, Any]:
    return {"metadata": [("authorization", f"Bearer key-of-{tenant}")]}


@pytest.fixture
async def held(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HeldTexts]:
    held = HeldTexts(monkeypatch)
    yield held
    held.let_go()


@contextlib.asynccontextmanager
async def house(held: HeldTexts, **settings: Any) -> AsyncIterator[House]:
    async with (
        serve(FakeEngine(), keys=KEYS, **settings) as server,
        grpc.aio.insecure_channel(server.target) as public,
        grpc.aio.insecure_channel(server.admin_target) as admin,
    ):
        try:
            yield House(server, public, admin)
        finally:
            held.let_go()


async def reason_of(call: Any) -> str:
    return str(details_of(await status_of(call))["ErrorInfo"].reason)


@pytest.mark.check("R18")
async def test_a_flood_of_questions_holds_up_no_prompt_and_no_question_of_another(held: HeldTexts) -> None:
    async with house(held) as callers:
        flood = [callers.tokenize("flood", f"held {number}") for number in range(8)]
        await held.begun.get()
        await callers.until_live(8)
        for tenant in ("light", "flood"):
            assert (await callers.generate(tenant)).choices[0].text == "hi"
        assert len((await callers.tokenize("light", timeout=TIMEOUT_S)).token_ids) == 2
        assert held.begun.empty()  # the flood has one turn
        assert not any(call.done() for call in flood)
        held.let_go()
        assert [len((await call).token_ids) for call in flood] == [6] * 8


@pytest.mark.check("R18")
async def test_a_flood_of_prompts_holds_up_no_prompt_of_another(held: HeldTexts) -> None:
    async with house(held) as callers:
        flood = [callers.generate("flood", f"held {number}") for number in range(8)]
        await callers.until_live(8)
        await held.begun.get()
        assert (await callers.generate("light")).choices[0].text == "hi"
        assert not any(call.done() for call in flood)
        held.let_go()
        assert [(await call).choices[0].text for call in flood] == [f"held {number}" for number in range(8)]


async def test_questions_count_as_requests_of_their_tenant(held: HeldTexts) -> None:
    async with house(held, tenants=Tenants(max_requests=2)) as callers:
        flood = [callers.tokenize("flood", "held") for _ in range(2)]
        await callers.until_live(2)
        refused = [
            callers.tokenize("flood"),
            callers.generate("flood"),
            callers.models.Detokenize(models_pb2.DetokenizeRequest(token_ids=[65]), **shows("flood")),
            callers.models.RenderChat(models_pb2.RenderChatRequest(chat=CHAT), **shows("flood")),
        ]
        for call in refused:
            error = await status_of(call)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert details_of(error)["ErrorInfo"].reason == "TENANT_LIMIT"
        held.let_go()
        for call in flood:
            await call


async def test_a_bounded_number_of_questions_waits_beside_the_engines_queue(held: HeldTexts) -> None:
    async with house(held, max_queued_requests=3) as callers:
        flood = [callers.tokenize("flood", f"held {number}") for number in range(3)]
        await callers.until_live(3)
        assert callers.admission.census() == (0, 0, 0)
        assert await reason_of(callers.tokenize("flood")) == "QUEUE_FULL"
        assert len((await callers.tokenize("light")).token_ids) == 2
        done, waiting = await asyncio.wait(
            {asyncio.ensure_future(reason_of(call)) for call in flood},
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert [each.result() for each in done] == ["QUEUE_FULL"]
        assert (await callers.generate("flood")).choices[0].text == "hi"
        for each in waiting:
            each.cancel()


@pytest.mark.parametrize("has_deadline", [False, True])
async def test_who_leaves_frees_his_place_and_is_not_served(held: HeldTexts, has_deadline: bool) -> None:
    async with house(held, tenants=Tenants(max_requests=2)) as callers:
        first = callers.tokenize("flood", "held first")
        assert await held.begun.get() == "held first"
        second = callers.tokenize("flood", "held second", timeout=0.5 if has_deadline else TIMEOUT_S)
        if has_deadline:
            assert (await status_of(second)).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            await callers.until_live(2)
            second.cancel()
        await callers.until_live(1)
        third = callers.tokenize("flood", "held third")
        await callers.until_live(2)
        held.let_go()
        await first
        await third
        assert held.begun.get_nowait() == "held third"
        assert held.begun.empty()


async def test_who_leaves_while_he_is_served_has_no_second_turn_yet(held: HeldTexts) -> None:
    async with house(held) as callers:
        for number in range(3):
            call = callers.tokenize("flood", f"held {number}")
            await callers.until_live(1)
            if not number:
                await held.begun.get()
            call.cancel()
            await callers.until_live(0)
        last = callers.tokenize("flood", "last")
        await callers.until_live(1)
        assert len((await callers.tokenize("light", timeout=TIMEOUT_S)).token_ids) == 2
        assert held.begun.empty()
        assert not last.done()
        held.let_go()
        assert len((await last).token_ids) == 4


@pytest.mark.parametrize("in_time", [True, False])
async def test_draining_waits_for_questions(held: HeldTexts, in_time: bool) -> None:
    async with house(held) as callers:
        calls = [callers.tokenize("flood", "held") for _ in range(2)]
        await callers.until_live(2)
        timeout = duration_pb2.Duration(seconds=60 if in_time else 0)
        drain = callers.admin.Drain(admin_pb2.DrainRequest(timeout=timeout))
        if in_time:
            async with asyncio.timeout(TIMEOUT_S):
                while await reason_of_answer(callers.tokenize("light")) != "NOT_READY":
                    pass
            assert not drain.done()
            held.let_go()
            for call in calls:
                assert len((await call).token_ids) == 4
        else:
            for call in calls:
                assert await reason_of(call) == "REQUEST_LOST"
        assert (await drain).num_aborted == (0 if in_time else 2)


async def reason_of_answer(call: Any) -> str:
    """Why a call was refused; empty where it was answered."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return str(details_of(error)["ErrorInfo"].reason)
    return ""


async def test_questions_are_answered_while_the_engine_is_away(held: HeldTexts) -> None:
    async with house(held) as callers:
        callers.engine.crash()
        assert await reason_of(callers.generate("light")) == "NOT_READY"
        assert len((await callers.tokenize("light")).token_ids) == 2


async def test_what_grows_with_the_text_is_done_in_threads(
    held: HeldTexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, threading.Thread] = {}

    def note(name: str) -> None:
        method = getattr(Tokenizer, name)

        def noting(*arguments: Any) -> Any:
            threads[name] = threading.current_thread()
            return method(*arguments)

        monkeypatch.setattr(Tokenizer, name, noting)

    for name in ("encode", "token_text", "decode"):
        note(name)
    async with house(held) as callers:
        request = models_pb2.TokenizeRequest(text="hi", token_texts=True)
        answer = await callers.models.Tokenize(request, **shows("light"))
        assert list(answer.token_texts) == ["h", "i"]
        asked = models_pb2.DetokenizeRequest(token_ids=answer.token_ids)
        assert (await callers.models.Detokenize(asked, **shows("light"))).text == "hi"
    assert set(threads) == {"encode", "token_text", "decode"}
    assert threading.current_thread() not in threads.values()


async def test_a_long_text_is_answered_beyond_the_context(held: HeldTexts) -> None:
    async with house(held) as callers:
        answer = await callers.tokenize("light", "a" * 100_000)
        assert len(answer.token_ids) == 100_000 > answer.max_model_len
