"""Every route needs a key, except health and the console's page: by every method and every spelling."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

import anthropic
import httpx
import openai
import pytest
from fakes import FakeEngine, serve
from scripted_backend import MODEL, House, serving

from gate.certificates import CertificateFiles
from gate.key_ring import KeyRing
from gate.keys import Secret, parse_key, parse_literal
from translator.app import ROUTES, build_app
from translator.backend import Backend
from translator.config import TranslatorConfig
from translator.gate import HEALTH_PATHS, PAGE_PATHS
from translator.process import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FROB")
OPEN_PATHS = (HEALTH_PATHS | PAGE_PATHS) & {route.path for route in ROUTES}
PATHS = [*sorted({route.path for route in ROUTES} - OPEN_PATHS), "/tomorrow"]
KEY = {"authorization": "Bearer secret-a"}
BAD_HEADERS: dict[str, list[tuple[str, str]]] = {
    "none": [],
    "wrong": [("authorization", "Bearer wrong")],
    "empty": [("authorization", "")],
    "no key": [("authorization", "Bearer ")],
    "basic": [("authorization", "Basic c2VjcmV0LWE6")],
    "bare": [("authorization", "secret-a")],
    "the tenant too": [("authorization", "Bearer a:secret-a")],
    "twice": [("authorization", "Bearer secret-a"), ("authorization", "Bearer secret-a")],
    "not ASCII": [("authorization", "Bearer schl\u00fcssel")],
    "elsewhere": [("x-api-key", "secret-a"), ("api-key", "secret-a"), ("cookie", "key=secret-a")],
}


@pytest.fixture(scope="module")
def guarded_house() -> Iterator[House]:
    keys = (
        *(parse_key(key) for key in ("a:secret-a", "a:second-a", "b:secret-b")), parse_literal("a:b,c").key
    )  # fmt: skip
    with serving(api_keys=keys, admin_secrets=(Secret("boss:secret-admin"),)) as house:
        yield house


@pytest.fixture
def house(guarded_house: House) -> House:
    guarded_house.servicer.reset()
    return guarded_house


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def send(house: House, method: str, path: str, headers: list[tuple[str, str]]) -> Answer:
    """A request whose body never comes: who answers did not read it."""
    connection = http.client.HTTPConnection("127.0.0.1", house.port, timeout=20)
    connection.putrequest(method, path, skip_host=any(name == "host" for name, _ in headers))
    for name, value in [*headers, ("content-type", "application/json"), ("content-length", "1000")]:
        connection.putheader(name, value)
    connection.endheaders()
    response = connection.getresponse()
    answer = Answer(response.status, dict(response.getheaders()), response.read())
    connection.close()
    return answer


def assert_refused(answer: Answer, method: str, path: str) -> None:
    assert answer.status == 401, path
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-request-id"]
    if method != "HEAD":
        body = json.loads(answer.body)
        if path.startswith("/v1/messages"):
            assert (body["type"], body["error"]["type"]) == ("error", "authentication_error")
        else:
            assert body["error"]["code"] == "invalid_api_key"
            assert body["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.check("S01")
@pytest.mark.parametrize("headers", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_no_route_answers_without_a_key(house: House, headers: list[tuple[str, str]]) -> None:
    for path in PATHS:
        if path.startswith("/v1/messages"):
            given = [(name, value) for name, value in headers if name != "x-api-key"]
        else:
            given = headers
        for method in METHODS:
            answer = send(house, method, f"{path}?api_key=secret-a&key=secret-a", given)
            assert_refused(answer, method, path)
    assert not house.servicer.specs


def mutations(path: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Other spellings of a path, and headers that claim to be another one."""
    return [
        ("/" + path, []),
        (path.replace("/", "//"), []),
        (path + "/", []),
        (path + "%2f", []),
        (path + "%0a", []),
        (path + ";x", []),
        ("/%" + f"{ord(path[1]):02x}" + path[2:], []),
        ("/health/.." + path, []),
        ("/health%2f.." + path, []),
        (path + "/../health", []),
        (path + "?/health", []),
        (f"http://evil/health{path}", []),
        (f"http://evil{path}", []),
        (path, [("host", "a/health?")]),
        (path, [("host", "health@evil")]),
        (path, [("x-original-url", "/health"), ("x-rewrite-url", "/health")]),
        (path, [("x-forwarded-prefix", path), ("x-forwarded-host", "a/health?")]),
    ]


@pytest.mark.check("S03")
def test_no_spelling_of_a_path_is_let_in(house: House) -> None:
    for path in PATHS:
        for other, headers in mutations(path):
            answer = send(house, "POST", other, headers)
            # What is no HTTP at all is refused before anybody asks for its key.
            assert answer.status in (400, 401), (other, headers)
    assert not house.servicer.specs


@pytest.mark.parametrize("path", sorted(OPEN_PATHS))
def test_health_and_the_consoles_page_are_open(house: House, path: str) -> None:
    assert httpx.get(house.url + path, timeout=20).status_code != 401


def test_the_body_is_not_waited_for(house: House) -> None:
    with socket.create_connection(("127.0.0.1", house.port), timeout=20) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401 ")


def complete(house: House, headers: dict[str, str], **body: Any) -> httpx.Response:
    return httpx.post(
        f"{house.url}/v1/completions",
        json={"model": MODEL, "prompt": "hi", **body},
        headers=headers,
        timeout=20,
    )


@pytest.mark.parametrize("secret", ["secret-a", "second-a", "secret-b", "a:b,c"])
def test_each_key_opens_and_goes_on_to_the_model_server(house: House, secret: str) -> None:
    assert complete(house, {"authorization": f"bearer {secret}"}).status_code == 200
    assert house.servicer.metadata[-1]["authorization"] == f"Bearer {secret}"


def test_the_official_clients_say_what_is_wrong(house: House) -> None:
    with openai.OpenAI(base_url=f"{house.url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as raised:
            client.models.list()
        assert raised.value.code == "invalid_api_key"
    with (
        anthropic.Anthropic(base_url=house.url, api_key="wrong", max_retries=0) as claude,
        pytest.raises(anthropic.AuthenticationError),
    ):
        claude.messages.create(model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "hi"}])
    with anthropic.Anthropic(base_url=house.url, api_key="secret-a", max_retries=0) as claude:
        claude.messages.create(model=MODEL, max_tokens=5, messages=[{"role": "user", "content": "hi"}])
    assert house.servicer.metadata[-1]["authorization"] == "Bearer secret-a"


@pytest.mark.check("S05")
@pytest.mark.parametrize(
    "path",
    [
        "/pagewire.v1.AdminService/Drain", "/drain", "/admin", "/admin/drain", "/shutdown", "/reload",
        "/pause", "/resume", "/sleep", "/wake_up", "/is_sleeping", "/start_profile", "/stop_profile",
        "/update_weights", "/update_weights_from_disk", "/abort_requests", "/collective_rpc",
        "/reset_prefix_cache", "/flush_cache", "/server_info", "/scale_elastic_ep", "/debug", "/v1/adapters",
    ],
)  # fmt: skip
def test_there_is_nothing_of_operators_at_the_public_door(path: str, house: House) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        answer = httpx.request(method, house.url + path, json={}, headers=KEY, timeout=20)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


@pytest.mark.check("S05")
def test_a_tenants_key_is_not_an_operators(house: House) -> None:
    body = {"lora_name": "x", "lora_path": "/x"}
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/load_lora_adapter%0a"):
        answer = httpx.post(house.url + path, json=body, headers=KEY, timeout=20)
        assert answer.status_code in (403, 404)
        assert answer.json()["error"]["code"] in ("permission_denied", "unknown_url")
    answer = httpx.post(
        f"{house.url}/v1/load_lora_adapter",
        json=body,
        headers={"authorization": "Bearer secret-admin"},
        timeout=20,
    )
    assert "--admin-target" in answer.json()["error"]["message"]


def test_a_response_is_seen_by_its_own_tenant_alone(house: House) -> None:
    answer = httpx.post(
        f"{house.url}/v1/responses", json={"model": MODEL, "input": "hi"}, headers=KEY, timeout=20
    )
    url = f"{house.url}/v1/responses/{answer.json()['id']}"
    statuses = [
        httpx.get(url, headers={"authorization": f"Bearer {secret}"}, timeout=20).status_code
        for secret in ("secret-a", "second-a", "secret-b", "secret-admin")
    ]
    assert statuses == [200, 200, 404, 404]


def test_where_no_key_is_needed_a_response_is_still_its_keys_alone() -> None:
    with serving() as house:
        answer = httpx.post(
            f"{house.url}/v1/responses", json={"model": MODEL, "input": "hi"}, headers=KEY, timeout=20
        )
        url = f"{house.url}/v1/responses/{answer.json()['id']}"
        assert httpx.get(url, headers=KEY, timeout=20).status_code == 200
        assert httpx.get(url, timeout=20).status_code == 404


def test_metrics_may_be_opened() -> None:
    with serving(api_keys=(parse_key("secret-a"),), open_metrics=True) as house:
        assert httpx.get(f"{house.url}/metrics", timeout=20).status_code == 200
        assert httpx.get(f"{house.url}/load", timeout=20).status_code == 401


def test_what_can_be_no_key_is_not_passed_on() -> None:
    with serving() as house:
        for value in ("Bearer two words", "Bearer " + "x" * 2000, "Basic secret"):
            assert complete(house, {"authorization": value}).status_code == 200
            assert "authorization" not in house.servicer.metadata[-1]


def test_a_bad_file_of_keys_or_certificates_ends_the_translator(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert run(TranslatorConfig(port=0, api_key_file=empty)) == 2
    assert run(TranslatorConfig(port=0, tls=CertificateFiles(empty, empty))) == 2


def test_an_open_door_wider_than_loopback_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    class Measured:
        metrics = None

    backend: Any = Measured()
    build_app(TranslatorConfig(), backend)
    build_app(TranslatorConfig(host="0.0.0.0", api_keys=(parse_key("a"),)), backend)
    assert not caplog.records
    build_app(TranslatorConfig(host="0.0.0.0"), backend)
    assert "no key is set" in caplog.text


async def test_the_reason_of_not_being_ready_comes_without_a_key() -> None:
    engine = FakeEngine()
    async with serve(engine, keys=KeyRing([parse_key("a:secret-a")])) as server:
        engine.crash("the engine is starting again")
        backend = Backend(server.target, 20.0)
        assert await backend.not_ready_reason() == "the engine is starting again"
        await backend.close()
