"""One line for each HTTP request: what it cost and how it ended, never what it said."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from processes import wait_until
from scripted_backend import MODEL, delta, finished, plays, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx
    from scripted_backend import House

    from pagewire.v1 import inference_pb2

CANARY = "canary-5f1c"
CHAT = {"messages": [{"role": "user", "content": CANARY}]}


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record)["fields"] for record in list(caplog.records) if record.name == "translator.requests"]


def logged(caplog: pytest.LogCaptureFixture, request_id: str) -> dict[str, Any]:
    """The line of a request, which is written once its answer has been sent."""

    def found() -> list[dict[str, Any]]:
        return [line for line in lines(caplog) if line["request_id"] == request_id]

    wait_until(found, f"{request_id} is logged")
    (line,) = found()
    return line


@pytest.fixture(autouse=True)
def all_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


@pytest.mark.parametrize("stream", [False, True])
def test_a_generation_is_a_line(
    stream: bool, http: httpx.Client, house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.servicer.script = plays(started(), delta(CANARY), delta("b"), finished())
    request_id = f"r-{stream}"
    http.post("/v1/chat/completions", json=CHAT | {"stream": stream}, headers={"x-request-id": request_id})
    line = logged(caplog, request_id)
    assert line.pop("total_s") >= line.pop("first_token_s") > 0
    assert line.pop("peer").startswith("127.0.0.1:")
    assert line == {
        "request_id": request_id,
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "model": MODEL,
        "prompt_tokens": 7,
        "cached_tokens": 2,
        "completion_tokens": 2,
    }
    assert "7 prompt tokens (2 cached), 2 generated, first after" in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.parametrize("ends", ["fails", "is left"])
def test_a_stream_that_breaks_off_is_told_from_one_that_ends(
    ends: str, http: httpx.Client, house: House, caplog: pytest.LogCaptureFixture
) -> None:
    async def breaks(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
        yield started()
        yield delta("a")
        if ends == "is left":
            await asyncio.Event().wait()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    house.servicer.script = breaks
    request_id = ends.replace(" ", "-")
    headers = {"x-request-id": request_id}
    with http.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}, headers=headers) as answer:
        for text in answer.iter_text():
            if ends == "is left" and '"a"' in text:
                break
    line = logged(caplog, request_id)
    assert (line["status"], line["broken_by"]) == (200, 503 if ends == "fails" else 499)
    assert line["completion_tokens"] == 1
    assert "first_token_s" in line


def test_several_generations_of_a_request_add_up(
    http: httpx.Client, house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.servicer.script = plays(started(), delta("a"), finished())
    http.post("/v1/completions", json={"prompt": ["a", "b"]}, headers={"x-request-id": "two"})
    line = logged(caplog, "two")
    assert (line["prompt_tokens"], line["completion_tokens"]) == (14, 2)


def test_embeddings_and_failures_are_lines(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    http.post("/v1/embeddings", json={"input": CANARY}, headers={"x-request-id": "e"})
    assert logged(caplog, "e")["status"] == 200
    http.post("/v1/chat/completions", json={"messages": CANARY}, headers={"x-request-id": "bad"})
    line = logged(caplog, "bad")
    assert (line["status"], line["route"]) == (400, "/v1/chat/completions")
    assert "model" not in line
    assert CANARY not in caplog.text


@pytest.mark.check("S23")
def test_a_path_of_a_callers_own_is_not_logged(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    http.get(f"/{CANARY}?key={CANARY}", headers={"x-request-id": "lost", "authorization": f"Bearer {CANARY}"})
    assert logged(caplog, "lost")["route"] == "unknown"
    own = [record.getMessage() for record in caplog.records if record.name.startswith("translator")]
    assert CANARY not in "".join(own)


def test_probes_are_for_debugging(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    http.get("/health/live", headers={"x-request-id": "probe"})
    logged(caplog, "probe")
    (level,) = {record.levelno for record in caplog.records if record.name == "translator.requests"}
    assert level == logging.DEBUG
