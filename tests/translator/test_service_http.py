"""Everything beside generation: models, health, unknown routes, request ids, CORS, and bad days."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from scripted_backend import BYE, HELLO, MODEL, delta, finished, serving, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scripted_backend import House

    from pagewire.v1 import inference_pb2

BODY = {"messages": [{"role": "user", "content": "hi"}]}


def test_models(http: httpx.Client) -> None:
    card = {
        "id": MODEL,
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "pagewire",
        "root": "tiny",
        "parent": None,
        "max_model_len": 64,
        "capabilities": ["completion"],
    }
    for path in ("/v1/models", "/v1/models/"):
        assert http.get(path).json() == {"object": "list", "data": [card]}
    assert http.get(f"/v1/models/{MODEL}").json() == card
    assert http.get("/v1/models/org%2Ftiny-model").json() == card
    response = http.get("/v1/models/other")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_version(http: httpx.Client) -> None:
    assert set(http.get("/version").json()) == {"version"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/v1/audio/speech", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/health", 405),
    ],
)
def test_what_is_not_there(method: str, path: str, status: int, http: httpx.Client) -> None:
    response = http.request(method, path, headers={"x-request-id": "mine"})
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"] == "mine"
    assert ("allow" in response.headers) == (status == 405)


@pytest.mark.check("S23")
@pytest.mark.parametrize("given", ["a" * 129, "a b", "é", "", "a;b"])
def test_an_unusable_request_id_is_replaced(given: str, http: httpx.Client) -> None:
    response = http.get("/version", headers=[(b"x-request-id", given.encode())])
    assert response.headers["x-request-id"] not in ("", given)
    assert len(response.headers.get_list("x-request-id")) == 1


def test_browsers_may_call_from_allowed_origins_only() -> None:
    with serving(allowed_origins=("https://a.example",)) as house, httpx.Client(base_url=house.url) as http:
        preflight = {
            "origin": "https://a.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization, x-stainless-lang",
        }
        response = http.options("/v1/chat/completions", headers=preflight)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://a.example"
        refused = http.post("/v1/chat/completions", content=b"{", headers={"origin": "https://a.example"})
        assert refused.status_code == 400
        assert refused.headers["access-control-allow-origin"] == "https://a.example"
        other = http.get("/version", headers={"origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


class TestHealth:
    def test_ready(self, http: httpx.Client) -> None:
        for path in ("/health", "/health/ready", "/health/live"):
            assert http.get(path).status_code == 200

    def test_a_slow_start_tells_why(self, http: httpx.Client, house: House) -> None:
        house.set_serving(False)
        house.servicer.not_ready = "loading the model: 40 of 120 MB"
        try:
            for path in ("/health", "/health/ready"):
                response = http.get(path)
                assert response.status_code == 503
                assert response.json()["error"]["message"] == "loading the model: 40 of 120 MB"
            assert http.get("/health/live").status_code == 200
            response = http.get("/v1/models")
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
            assert "loading" in response.json()["error"]["message"]
            house.servicer.not_ready = None
            assert "not serving" in http.get("/health/ready").json()["error"]["message"]
        finally:
            house.set_serving(True)
        assert http.get("/health/ready").status_code == 200

    @pytest.mark.check("R19")
    def test_what_a_server_said_at_last_is_kept_while_it_is_gone(self) -> None:
        with serving() as house, httpx.Client(base_url=house.url, timeout=BYE) as http:
            house.set_serving(False)
            house.servicer.not_ready = "the engine failed too often"
            http.get("/health/ready")
            house.stop_backend()
            message = http.get("/health/ready").json()["error"]["message"]
            assert message.startswith("The model server cannot be reached.")
            assert message.endswith(" At last it said: the engine failed too often")
            house.servicer.not_ready = None
            house.start_backend()
            house.set_serving(True)
            while http.get("/health/ready").status_code != 200:  # until the channel has found it again
                pass
            house.stop_backend()
            assert "engine" not in http.get("/health/ready").json()["error"]["message"]

    @pytest.mark.check("R04")
    def test_the_model_server_goes_and_comes_back(self) -> None:
        with serving() as house, httpx.Client(base_url=house.url, timeout=BYE) as http:
            assert http.post("/v1/chat/completions", json=BODY).status_code == 200
            house.stop_backend()
            for stream in (False, True):
                response = http.post("/v1/chat/completions", json=BODY | {"stream": stream})
                assert response.status_code == 503
                assert response.headers["retry-after"] == "1"
                assert "127.0.0.1" not in response.text
            assert http.get("/health/ready").status_code == 503
            assert http.get("/health/live").status_code == 200
            assert http.get("/v1/models").status_code == 503
            house.start_backend()
            response = http.post("/v1/chat/completions", json=BODY)
            while response.status_code == 503:  # until the channel has found it again
                response = http.post("/v1/chat/completions", json=BODY)
            assert response.json()["choices"][0]["message"]["content"] == "Hello"
            assert http.get("/health/ready").status_code == 200

    @pytest.mark.check("R01", "R05")
    def test_a_lost_server_ends_streams_with_an_error(self) -> None:
        async def hangs(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
            yield started()
            yield delta("Hel")
            await asyncio.Event().wait()

        with serving() as house, httpx.Client(base_url=house.url, timeout=BYE) as http:
            house.servicer.script = hangs
            received = ""
            with http.stream("POST", "/v1/chat/completions", json=BODY | {"stream": True}) as response:
                for text in response.iter_text():
                    if "Hel" in text:
                        house.stop_backend()
                    received += text
            last = received.removesuffix("\n\n").split("\n\n")[-1]
            assert '"code":"unavailable"' in last
            assert "[DONE]" not in received


class TestDrain:
    """Stopping: readiness first, no new requests, the running ones end."""

    @pytest.mark.check("R12")
    def test_running_requests_finish(self) -> None:
        with serving() as house:
            go_on = threading.Event()
            house.servicer.script = waits_for(go_on)
            with (
                httpx.Client(base_url=house.url, timeout=BYE) as http,
                http.stream("POST", "/v1/chat/completions", json=BODY | {"stream": True}) as response,
            ):
                texts = response.iter_text()
                received = next(texts)
                house.server.stop()
                with httpx.Client(base_url=house.url, timeout=BYE) as other:
                    assert other.get("/health/ready").status_code == 503
                    refused = other.post("/v1/chat/completions", json=BODY)
                    assert refused.status_code == 503
                    assert refused.json()["error"]["code"] == "shutting_down"
                    assert refused.headers["retry-after"] == "1"
                go_on.set()
                received += "".join(texts)
            assert received.endswith("data: [DONE]\n\n")
            house.wait_closed()

    @pytest.mark.check("R12")
    def test_requests_that_take_too_long_end_with_an_error(self) -> None:
        with serving(drain_timeout_s=0.2) as house:
            house.servicer.script = waits_for(threading.Event())
            with httpx.Client(base_url=house.url, timeout=BYE) as http:
                with http.stream("POST", "/v1/chat/completions", json=BODY | {"stream": True}) as response:
                    texts = response.iter_text()
                    received = next(texts)
                    house.server.stop()
                    received += "".join(texts)
                assert '"code":"shutting_down"' in received
                assert "[DONE]" not in received
                assert house.servicer.left.acquire(timeout=BYE)
            house.wait_closed()


def waits_for(event: threading.Event) -> Any:
    async def script(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
        yield started()
        await asyncio.to_thread(event.wait, BYE)
        yield finished()

    return script


def test_a_deadline_is_a_504() -> None:
    async def hangs(spec: inference_pb2.GenerationSpec, context: Any) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield started()

    with serving(request_timeout_s=2.0) as house, httpx.Client(base_url=house.url, timeout=BYE) as http:
        house.servicer.script = hangs
        response = http.post("/v1/chat/completions", json=BODY)
        assert response.status_code == 504
        assert response.json()["error"]["code"] == "deadline_exceeded"
        house.servicer.script = HELLO
        assert http.post("/v1/chat/completions", json=BODY).status_code == 200
