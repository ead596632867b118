"""Embed over gRPC, with an engine whose vectors say which input they belong to."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import msgspec
import numpy as np
import pytest
from calls import details_of, status_of
from fakes import INFO, FakeEngine, serve, vector_of

from engine.messages import FinishReason, Pooling
from pagewire.channel import MAX_RECEIVE_BYTES
from pagewire.v1 import inference_pb2, inference_pb2_grpc, models_pb2, models_pb2_grpc
from server import embedding

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from engine.messages import EngineInfo

RAW: dict[str, Any] = {"normalize": False}


class Doors:
    def __init__(self, engine: FakeEngine, channel: grpc.aio.Channel) -> None:
        self.engine = engine
        inference: Any = inference_pb2_grpc.InferenceServiceStub(channel)
        self.embed = inference.Embed
        self.generate = inference.Generate
        self.models: Any = models_pb2_grpc.ModelServiceStub(channel)


@asynccontextmanager
async def doors(*, manual: bool = False, info: EngineInfo = INFO, **options: Any) -> AsyncIterator[Doors]:
    async with (
        serve(FakeEngine(manual=manual, info=info), **options) as server,
        grpc.aio.insecure_channel(
            server.target, options=[("grpc.max_receive_message_length", MAX_RECEIVE_BYTES)]
        ) as channel,
    ):
        yield Doors(server.engine, channel)


def texts(*values: str) -> list[inference_pb2.EmbedInput]:
    return [inference_pb2.EmbedInput(text=value) for value in values]


def ids(*values: int) -> inference_pb2.EmbedInput:
    return inference_pb2.EmbedInput(token_ids=inference_pb2.TokenIds(ids=values))


def request(inputs: Sequence[inference_pb2.EmbedInput], **fields: Any) -> inference_pb2.EmbedRequest:
    return inference_pb2.EmbedRequest(inputs=inputs, **fields)


async def test_order_tokens_and_vectors() -> None:
    async with doors() as door:
        response = await door.embed(request([*texts("abc", "de"), ids(7, 8, 9, 10)], **RAW))
    assert response.model == "fake-model"
    assert [list(one.values) for one in response.embeddings] == [
        list(vector_of(token_ids)) for token_ids in (b"abc", b"de", (7, 8, 9, 10))
    ]
    assert [one.num_tokens for one in response.embeddings] == [3, 2, 4]
    assert response.num_prompt_tokens == 9


async def test_vectors_are_cut_and_then_scaled() -> None:
    async with doors() as door:
        response = await door.embed(request(texts("abc"), dimensions=2))
    expected = np.array(vector_of(b"abc")[:2])
    np.testing.assert_allclose(response.embeddings[0].values, expected / np.linalg.norm(expected), rtol=1e-6)


@pytest.mark.parametrize(("own", "length"), [(True, 1.0), (False, None)])
async def test_scaling_is_the_models_own_where_nothing_is_said(own: bool, length: float | None) -> None:
    info = msgspec.structs.replace(INFO, normalizes_embeddings=own)
    async with doors(info=info) as door:
        response = await door.embed(request(texts("abc")))
    found = np.linalg.norm(response.embeddings[0].values)
    assert found == pytest.approx(length or np.linalg.norm(vector_of(b"abc")), rel=1e-6)


async def test_what_the_engine_is_asked_for() -> None:
    async with doors() as door:
        await door.embed(
            request(
                texts("x"),
                pooling=inference_pb2.POOLING_MEAN,
                cache=inference_pb2.CacheOptions(salt="s", bypass=True),
                scheduling=inference_pb2.Scheduling(priority=-3),
            )
        )
        await door.embed(request(texts("x")))
        asked, plain = door.engine.requests
    assert (asked.pooling, asked.cache_salt, asked.bypass_prefix_cache, asked.priority) == (
        Pooling.MEAN, "s", True, -3,
    )  # fmt: skip
    assert plain.pooling is Pooling.LAST


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"truncate_prompt_tokens": 2}, b"ab"),
        ({"truncate_prompt_tokens": 2, "truncation_side": inference_pb2.TRUNCATION_SIDE_LEFT}, b"cd"),
        ({"truncate_prompt_tokens": -1}, b"abcd"),
        ({"truncate_prompt_tokens": 128}, b"abcd"),
    ],
)
async def test_truncation(fields: dict[str, Any], kept: bytes) -> None:
    async with doors() as door:
        response = await door.embed(request([*texts("abcd"), ids(*b"abcd")], **fields, **RAW))
    assert [list(one.values) for one in response.embeddings] == [list(vector_of(kept))] * 2


async def test_an_input_may_fill_the_context() -> None:
    async with doors() as door:
        response = await door.embed(request(texts("x" * INFO.max_model_len)))
        assert response.num_prompt_tokens == INFO.max_model_len
        error = await status_of(door.embed(request([ids(1), *texts("x" * (INFO.max_model_len + 1))])))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "inputs[1].text: This model's maximum context length is 128" in (error.details() or "")


async def test_a_chat_is_rendered() -> None:
    async with doors() as door:
        chat = inference_pb2.EmbedInput()
        chat.chat.messages.add(role="user", text="hi")
        response = await door.embed(request([chat]))
        assert bytes(list(door.engine.requests[0].prompt_token_ids)) == b"<user>hi\n<assistant>"
    assert response.num_prompt_tokens == 20


REFUSED: list[tuple[inference_pb2.EmbedRequest, str]] = [
    (request([]), "inputs"),
    (request([ids(1)] * 2049), "inputs"),
    (request([inference_pb2.EmbedInput()]), "inputs[0]"),
    (request([ids(1), *texts("")]), "inputs[1].text"),
    (request([ids()]), "inputs[0].token_ids"),
    (request([ids(1, 260)]), "inputs[0].token_ids.ids[1]"),
    (request([ids(1)], dimensions=0), "dimensions"),
    (request([ids(1)], dimensions=5), "dimensions"),
    (request([ids(1)], pooling=inference_pb2.POOLING_CLS), "pooling"),
    (request([ids(1)], pooling=77), "pooling"),
    (request([ids(1)], truncate_prompt_tokens=0), "truncate_prompt_tokens"),
    (request([ids(1)], truncate_prompt_tokens=-2), "truncate_prompt_tokens"),
    (request([ids(1)], truncate_prompt_tokens=129), "truncate_prompt_tokens"),
    (request([ids(1)], truncation_side=9), "truncation_side"),
    (request([ids(1)], cache=inference_pb2.CacheOptions(salt="x" * 129)), "cache.salt"),
    (
        request([ids(1)], scheduling={"queue_timeout": {"seconds": 0}}),
        "scheduling.queue_timeout",
    ),
]


@pytest.mark.parametrize(
    ("bad", "field"), REFUSED, ids=[f"{i}-{field}" for i, (_, field) in enumerate(REFUSED)]
)
async def test_refused_fields_are_named(bad: inference_pb2.EmbedRequest, field: str) -> None:
    async with doors() as door:
        error = await status_of(door.embed(bad))
        assert not door.engine.requests
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = details_of(error)["BadRequest"].field_violations
    assert [violation.field for violation in violations] == [field]


async def test_an_answer_that_no_client_would_take_is_refused() -> None:
    info = msgspec.structs.replace(INFO, embedding_dimensions=16384)
    async with doors(info=info) as door:
        error = await status_of(door.embed(request([ids(1)] * 2048)))
    assert "too large for one answer" in (error.details() or "")


async def test_a_large_answer_reaches_the_client() -> None:
    info = msgspec.structs.replace(INFO, embedding_dimensions=4)
    async with doors(info=info) as door:
        response = await door.embed(request([ids(index % 256, 3) for index in range(2048)], **RAW))
    assert [one.values[1] for one in response.embeddings] == [float(index % 256) for index in range(2048)]


async def test_many_inputs_reach_the_engine_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "MAX_AT_ONCE", 3)
    async with doors(manual=True) as door:
        call = door.embed(request([ids(index) for index in range(7)], **RAW))
        served: list[str] = []
        while len(served) < 7:
            await door.engine.until(min(3, 7 - len(served)))
            served += sorted(door.engine.live)
            door.engine.step()
        response = await call
    assert [one.values[1] for one in response.embeddings] == list(range(7))


@pytest.mark.parametrize("ends", ["cancel", "deadline"])
async def test_a_caller_who_goes_frees_the_engine(ends: str) -> None:
    async with doors(manual=True) as door:
        call = door.embed(request([ids(1), ids(2)]), timeout=3.0 if ends == "deadline" else None)
        await door.engine.until(2)
        if ends == "cancel":
            call.cancel()
        await door.engine.until(0)
        assert len(door.engine.aborted) == 2


async def test_a_failed_input_fails_the_request_and_frees_the_others() -> None:
    async with doors(manual=True) as door:
        call = door.embed(request([ids(1), ids(2)]))
        await door.engine.until(2)
        victim = min(door.engine.live)
        door.engine.finish(victim, FinishReason.FAILED, "numerical_error")
        error = await status_of(call)
        assert error.code() is grpc.StatusCode.INTERNAL
        await door.engine.until(0)


async def test_a_lost_engine_is_unavailable() -> None:
    async with doors(manual=True) as door:
        call = door.embed(request([ids(1)]))
        await door.engine.until(1)
        door.engine.crash()
        error = await status_of(call)
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_queue_timeout_counts_until_the_engine_begins() -> None:
    async with doors(manual=True) as door:
        waits = request([ids(1)])
        waits.scheduling.queue_timeout.nanos = 50_000_000
        error = await status_of(door.embed(waits))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await door.engine.until(0)
        waits.scheduling.queue_timeout.seconds = 60
        call = door.embed(waits)
        await door.engine.until(1)
        door.engine.admit()
        door.engine.step()
        assert len((await call).embeddings) == 1


async def test_an_encoder_generates_nothing_and_a_plain_decoder_embeds_nothing() -> None:
    encoder = msgspec.structs.replace(INFO, can_generate=False)
    async with doors(info=encoder) as door:
        spec = inference_pb2.GenerationSpec(text="x")
        error = await status_of(door.generate(inference_pb2.GenerateRequest(spec=spec)))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "'fake-model' makes embeddings" in (error.details() or "")
        model = (await door.models.GetModel(models_pb2.GetModelRequest())).model
        assert (model.can_generate, model.embedding_dimensions) == (False, 4)
    async with doors(info=msgspec.structs.replace(INFO, embedding_dimensions=0, poolings=())) as door:
        error = await status_of(door.embed(request([ids(1)])))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "'fake-model' makes no embeddings" in (error.details() or "")


async def test_an_unknown_model_is_not_found() -> None:
    async with doors() as door:
        error = await status_of(door.embed(request([ids(1)], model="other")))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_requests_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with doors() as door:
        responses = await asyncio.gather(*(door.embed(request([ids(i, i)], **RAW)) for i in range(20)))
    assert [one.embeddings[0].values[1] for one in responses] == list(range(20))
