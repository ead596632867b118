"""One line for each request: what it cost and how it ended, never what it said."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
from calls import status_of
from fakes import FakeEngine, saying, serve

from gate.key_ring import KeyRing
from gate.keys import parse_key
from pagewire.v1 import inference_pb2, inference_pb2_grpc, models_pb2, models_pb2_grpc
from server.request_log import log_end
from server.request_record import CallEnd, RequestRecord
from server.tracebacks import Tracebacks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CANARY = "canary-5f1c"
KEY = "key-canary-77aa"


@pytest.fixture
async def stub(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Any]:
    """An inference service that needs a key; everything is logged."""
    caplog.set_level(logging.DEBUG)
    keys = KeyRing([parse_key(f"acme:{KEY}")])
    async with (
        serve(FakeEngine(saying(*CANARY.encode())), keys=keys) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        yield inference_pb2_grpc.InferenceServiceStub(channel)


def metadata(request_id: str, key: str = KEY) -> list[tuple[str, str]]:
    return [("x-request-id", request_id), ("authorization", f"Bearer {key}")]


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record)["fields"] for record in caplog.records if record.name == "server.requests"]


async def until_logged(caplog: pytest.LogCaptureFixture, count: int) -> list[dict[str, Any]]:
    """The lines, once there are so many: a refusal's is written after its caller has heard of it."""
    async with asyncio.timeout(60):
        while len(lines(caplog)) < count:  # noqa: ASYNC110 - a log tells nobody
            await asyncio.sleep(0.01)
    return lines(caplog)


def spec_of(**fields: Any) -> inference_pb2.GenerationSpec:
    stopping = inference_pb2.Stopping(max_tokens=11)
    values: dict[str, Any] = {"text": f"say {CANARY}", "stopping": stopping} | fields
    return inference_pb2.GenerationSpec(**values)


async def test_a_finished_request_is_a_line(stub: Any, caplog: pytest.LogCaptureFixture) -> None:
    request = inference_pb2.GenerateRequest(spec=spec_of())
    response = await stub.Generate(request, metadata=metadata("r-1"))
    assert response.choices[0].text == CANARY
    (line,) = lines(caplog)
    for name in ("queue_s", "first_token_s", "total_s"):
        assert line.pop(name) >= 0
    assert line.pop("peer").startswith("127.0.0.1:")
    assert line == {
        "request_id": "r-1",
        "tenant": "acme",
        "method": "Generate",
        "status": "OK",
        "model": "fake-model",
        "finish_reasons": ["length"],
        "prompt_tokens": 4 + len(CANARY),
        "cached_tokens": 0,
        "completion_tokens": 11,
    }
    assert "15 prompt tokens (0 cached), 11 generated" in caplog.text


async def test_a_refused_request_is_a_line_too(stub: Any, caplog: pytest.LogCaptureFixture) -> None:
    await status_of(
        stub.Generate(inference_pb2.GenerateRequest(spec=spec_of(model=CANARY)), metadata=metadata("r-2"))
    )
    (line,) = await until_logged(caplog, 1)
    line.pop("total_s")
    line.pop("peer")
    assert line == {
        "request_id": "r-2",
        "tenant": "acme",
        "method": "Generate",
        "status": "NOT_FOUND",
        "reason": "MODEL_NOT_FOUND",
    }


async def test_nothing_that_was_said_is_logged(stub: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Scenario: text in every place where a caller may put some, right and wrong. Result: none in the log."""
    sampling = inference_pb2.Sampling(temperature=-1.0)
    for spec in (
        spec_of(),
        spec_of(sampling=sampling),
        spec_of(adapter=CANARY),
        spec_of(cache=inference_pb2.CacheOptions(salt=CANARY)),
        spec_of(stopping=inference_pb2.Stopping(stop=[CANARY] * 100)),
        spec_of(text=CANARY * 100),
    ):
        with contextlib.suppress(grpc.aio.AioRpcError):
            await stub.Generate(inference_pb2.GenerateRequest(spec=spec), metadata=metadata("r"))
        request = inference_pb2.StreamGenerateRequest(spec=spec)
        with contextlib.suppress(grpc.aio.AioRpcError):
            [event async for event in stub.StreamGenerate(request, metadata=metadata("r"))]
    for key in (f"{KEY}-wrong", ""):
        wrong = inference_pb2.GenerateRequest(spec=spec_of())
        await status_of(stub.Generate(wrong, metadata=metadata(f"bad id {CANARY}", key)))
    said = await until_logged(caplog, 12)
    assert {line["status"] for line in said} == {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}
    assert CANARY not in caplog.text
    assert KEY not in caplog.text
    assert all(CANARY not in str(line) and KEY not in str(line) for line in lines(caplog))


def test_a_fault_that_comes_again_and_again_is_shown_once_a_second(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    tracebacks = Tracebacks()
    for index, fault in enumerate(
        (KeyError("a"), KeyError("a"), ValueError("b"), KeyError("c"), KeyError("d"))
    ):
        now_s += (index == 4) * 1.5
        end = CallEnd("Generate", f"r-{index}", "", "INTERNAL", "INTERNAL", 0.1, RequestRecord(), fault)
        log_end(end, tracebacks)
    assert [record.exc_info is not None for record in caplog.records] == [True, False, True, False, True]
    assert [line.get("tracebacks_left_out") for line in lines(caplog)] == [None, None, None, None, 2]


async def test_questions_are_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serve(FakeEngine()) as server, grpc.aio.insecure_channel(server.target) as channel:
        stub: Any = models_pb2_grpc.ModelServiceStub(channel)
        await stub.ListModels(models_pb2.ListModelsRequest())
        assert lines(caplog) == []
        caplog.set_level(logging.DEBUG)
        await stub.ListModels(models_pb2.ListModelsRequest())
        assert [line["method"] for line in lines(caplog)] == ["ListModels"]
