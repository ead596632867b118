"""No text makes the service connect anywhere: a listener that every prompt names never hears of anybody."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest
from fake_doors import FakeDoors, fake_doors
from fakes import INFO, FakeEngine
from msgspec.structs import replace

from pagewire.v1 import inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.check("S13")

NUM_PROMPTS = 2000
PATTERNS = (
    "Fetch {url}",
    "![]({url}.png)",
    "<img src='{url}'><script src={url}></script>",
    "[a]({url}) file:///etc/passwd",
    "data:text/html,{url}",
    "{{% include '{url}' %}}{{{{ '{url}'|urlopen }}}}",
    '{{"$ref": "{url}"}}',
    '<!DOCTYPE a [<!ENTITY b SYSTEM "{url}">]>&b;',
    "${{jndi:ldap://{host}/a}} `curl {url}` $(wget {url})",
    "@import url({url}); ftp://{host}/ //{host}/ \\\\{host}\\a",
)


@pytest.fixture(scope="module")
def doors() -> Iterator[FakeDoors]:
    info = replace(INFO, max_model_len=1 << 16)
    with fake_doors(lambda: FakeEngine(info=info), max_queued_requests=200) as doors:
        yield doors


@pytest.fixture
def canary() -> Iterator[str]:
    """The address of a listener. In the end nobody has connected to it."""
    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:
        listener.setblocking(False)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(BlockingIOError):
            listener.accept()


def prompts_of(canary: str) -> list[str]:
    filled = [pattern.format(url=f"http://{canary}/x", host=canary) for pattern in PATTERNS]
    return [f"{number}: {filled[number % len(filled)]}" for number in range(NUM_PROMPTS)]


def test_prompts_full_of_addresses(doors: FakeDoors, canary: str) -> None:
    prompts = prompts_of(canary)
    batches = [prompts[at : at + 100] for at in range(0, NUM_PROMPTS, 100)]
    with httpx.Client(base_url=doors.url, timeout=100) as http:
        for number, batch in enumerate(batches):
            said = [{"role": "user", "content": prompt} for prompt in batch]
            bodies: list[tuple[str, dict[str, Any]]] = [
                ("/v1/completions", {"prompt": batch, "max_tokens": 1}),
                ("/v1/embeddings", {"input": batch}),
                ("/v1/chat/completions", {"messages": said, "max_tokens": 1}),
                ("/v1/messages", {"messages": said, "max_tokens": 1, "system": batch[0]}),
                ("/v1/responses", {"input": said, "instructions": batch[1], "max_output_tokens": 1}),
            ]
            path, body = bodies[number % len(bodies)]
            assert http.post(path, json=body).status_code == 200
            assert http.post("/tokenize", json={"prompt": batch[2]}).status_code == 200


def parts(url: str) -> list[tuple[str, dict[str, Any]]]:
    """Parts that are no text, of each route."""

    def chat(part: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return "/v1/chat/completions", {"messages": [{"role": "user", "content": [part]}]}

    def response(part: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return "/v1/responses", {"input": [{"role": "user", "content": [part]}]}

    def message(part: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        return "/v1/messages", {"messages": [{"role": "user", "content": [part]}], "max_tokens": 1}

    source = {"type": "url", "url": url}
    return [
        chat({"type": "image_url", "image_url": {"url": url}}),
        chat({"type": "image_url", "image_url": url}),
        chat({"type": "video_url", "video_url": {"url": url}}),
        chat({"type": "audio_url", "audio_url": {"url": url}}),
        chat({"type": "input_audio", "input_audio": {"data": url, "format": "wav"}}),
        chat({"type": "file", "file": {"file_data": url}}),
        response({"type": "input_image", "image_url": url}),
        response({"type": "input_file", "file_url": url}),
        message({"type": "image", "source": source}),
        message({"type": "document", "source": source}),
    ]


@pytest.mark.parametrize("scheme", ["http", "https", "file", "ftp"])
def test_media_are_refused(doors: FakeDoors, canary: str, scheme: str) -> None:
    for path, body in parts(f"{scheme}://{canary}/x.png"):
        response = httpx.post(doors.url + path, json=body, timeout=100)
        assert response.status_code == 400, response.text
        assert "only text is supported" in response.json()["error"]["message"].lower()
    spec = inference_pb2.GenerationSpec()
    spec.chat.messages.add(role="user").parts.parts.add(image_url=f"{scheme}://{canary}/x.png")
    with grpc.insecure_channel(doors.grpc_target) as channel:
        stub: Any = inference_pb2_grpc.InferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as raised:
            stub.Generate(inference_pb2.GenerateRequest(spec=spec), timeout=100)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "@"}}}},
        {
            "guided_json": {
                "$schema": "@",
                "$id": "@",
                "type": "object",
                "items": {"$ref": "@#/a"},
            }
        },
        {"guided_grammar": '%import "@"\nstart: "a"'},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "@"}}}]},
        {"chat_template": "{% include '@' %}"},
        {"chat_template_kwargs": {"a": "@"}},
        {"documents": [{"url": "@"}]},
        {"model": "@"},
        {"cache_salt": "@"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_addresses_in_other_fields(doors: FakeDoors, canary: str, fields: dict[str, Any]) -> None:
    """Most are refused; some mean nothing. None is followed."""

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: filled(one) for name, one in value.items()}
        if isinstance(value, list):
            return [filled(one) for one in value]
        return value.replace("@", f"http://{canary}/x.json") if isinstance(value, str) else value

    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, **filled(fields)}
    response = httpx.post(f"{doors.url}/v1/chat/completions", json=body, timeout=100)
    assert response.status_code in (200, 400, 404), response.text


def test_the_canary_hears() -> None:
    """The listener would notice: what connected stays in its backlog."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        socket.create_connection(listener.getsockname()).close()
        listener.setblocking(False)
        listener.accept()[0].close()
