"""The time that an HTTP caller gives is the call's deadline, or that of its place in the queue."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Any

import openai
import pytest
from scripted_backend import BYE, MODEL, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx
    from scripted_backend import House

pytestmark = pytest.mark.check("R21")

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "hi"},
    "/v1/messages": CHAT | {"model": MODEL, "max_tokens": 5},
    "/v1/responses": {"input": "hi"},
}
DEFAULT_S = 600.0


def waits(house: House) -> tuple[float, float | None]:
    """The deadline of the last call in whole minutes, and its time in the queue."""
    spec = house.servicer.specs[-1]
    queue_s = spec.scheduling.queue_timeout.ToNanoseconds() / 1e9
    has_queue = spec.scheduling.HasField("queue_timeout")
    return round(house.servicer.time_remaining_s / 60) * 60.0, queue_s if has_queue else None


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("headers", "whole", "stream"),
    [
        ({}, (DEFAULT_S, None), (DEFAULT_S, None)),
        ({"X-Request-Timeout": "180"}, (180.0, None), (180.0, None)),
        ({"x-stainless-timeout": "240"}, (240.0, None), (DEFAULT_S, 240.0)),
        ({"x-stainless-read-timeout": "240.5"}, (240.0, None), (DEFAULT_S, 240.5)),
        ({"x-stainless-timeout": "NOT_GIVEN"}, (DEFAULT_S, None), (DEFAULT_S, None)),
        ({"x-stainless-timeout": "0"}, (DEFAULT_S, None), (DEFAULT_S, None)),
        ({"x-stainless-timeout": "1_20"}, (DEFAULT_S, None), (DEFAULT_S, None)),
        ({"x-stainless-timeout": "9000"}, (DEFAULT_S, None), (DEFAULT_S, None)),
        ({"X-Request-Timeout": "9000"}, (DEFAULT_S, None), (DEFAULT_S, None)),
        (
            {"X-Request-Timeout": "300", "x-stainless-timeout": "120"},
            (120.0, None),
            (300.0, 120.0),
        ),
    ],
)
def test_headers_set_the_deadline(
    path: str, headers: dict[str, str], whole: Any, stream: Any, house: House, http: httpx.Client
) -> None:
    assert http.post(path, json=ROUTES[path], headers=headers).status_code == 200
    assert waits(house) == whole
    assert http.post(path, json=ROUTES[path] | {"stream": True}, headers=headers).status_code == 200
    assert waits(house) == stream


QUESTIONS: dict[str, dict[str, Any]] = {
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [1]},
    "/v1/messages/count_tokens": CHAT | {"model": MODEL},
    "/v1/responses/input_tokens": {"input": "hi"},
}


@pytest.mark.parametrize("path", QUESTIONS)
def test_questions_have_the_deadline_too(path: str, house: House, http: httpx.Client) -> None:
    assert http.post(path, json=QUESTIONS[path], headers={"X-Request-Timeout": "180"}).status_code == 200
    assert round(house.servicer.time_remaining_s / 60) == 3


@pytest.mark.parametrize("path", [*ROUTES, *QUESTIONS, "/v1/embeddings"])
@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", "1e999", "1_0", ""])
def test_a_bad_header_is_refused_by_name(path: str, value: str, house: House, http: httpx.Client) -> None:
    body = (ROUTES | QUESTIONS).get(path, {"input": "hi"})
    response = http.post(path, json=body, headers={"X-Request-Timeout": value})
    assert response.status_code == 400
    assert "X-Request-Timeout: expected a number of seconds" in response.text
    asked = house.servicer
    assert not [*asked.specs, *asked.embed_requests, *asked.tokenize_requests]


def test_nobody_waits_for_a_response_in_the_background(house: House, http: httpx.Client) -> None:
    body = ROUTES["/v1/responses"] | {"background": True}
    headers = {"x-stainless-timeout": "120", "X-Request-Timeout": "180"}
    assert http.post("/v1/responses", json=body, headers=headers).status_code == 200
    assert waits(house) == (DEFAULT_S, None)


def test_the_timeout_of_openais_client_reaches_the_server(house: House) -> None:
    with openai.OpenAI(base_url=f"{house.url}/v1", api_key="none", timeout=BYE + 100) as client:
        client.chat.completions.create(model=MODEL, messages=CHAT["messages"])
        assert waits(house) == (120.0, None)
        for _ in client.chat.completions.create(model=MODEL, messages=CHAT["messages"], stream=True):
            pass
        assert waits(house) == (DEFAULT_S, 120.0)


def test_a_deadline_counts_from_the_headers(house: House) -> None:
    body = b'{"prompt": "hi"}'
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
    head += "content-type: application/json\r\nx-request-timeout: 0.2\r\nconnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", house.port), timeout=BYE) as connection:
        connection.sendall(head.encode())
        time.sleep(0.3)
        connection.sendall(body)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"deadline_exceeded" in answer


class LateTimers:
    """The service whose deadlines come later, as if gRPC's timers were slow."""

    def __init__(self, inference: Any) -> None:
        self._inference = inference

    def __getattr__(self, method: str) -> Any:
        def call(request: Any, *, timeout: float, metadata: Any) -> Any:
            return getattr(self._inference, method)(request, timeout=timeout + 100 * BYE, metadata=metadata)

        return call


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [*ROUTES, "/v1/embeddings"])
def test_a_deadline_holds_whatever_timers_grpc_has(
    path: str, stream: bool, house: House, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(spec: Any, context: Any) -> AsyncIterator[Any]:
        yield started()
        await asyncio.Event().wait()

    house.servicer.script = hang
    house.servicer.holds_embeddings = True
    monkeypatch.setattr(house.backend, "_inference", LateTimers(house.backend._inference))
    body = ROUTES[path] | {"stream": stream} if path in ROUTES else {"input": "hi"}
    response = http.post(path, json=body, headers={"X-Request-Timeout": "0.3"})
    assert response.status_code == (200 if stream and path in ROUTES else 504)
    assert "The request was not done before its deadline." in response.text
    assert house.servicer.left.acquire(timeout=BYE)


def test_a_deadline_that_passes_is_a_504_and_frees_the_call(house: House, http: httpx.Client) -> None:
    house.servicer.holds_embeddings = True
    response = http.post("/v1/embeddings", json={"input": "hi"}, headers={"X-Request-Timeout": "0.3"})
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    assert house.servicer.left.acquire(timeout=BYE)
