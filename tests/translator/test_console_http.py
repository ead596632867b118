"""The console's page, and what it asks for beside the public API."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import httpx
import pytest
from fakes import FakeEngine, serve
from scripted_backend import MODEL, abort, serving

from engine.messages import EngineStats
from gate.key_ring import KeyRing
from gate.keys import Secret, parse_key
from pagewire.v1 import admin_pb2, admin_pb2_grpc
from translator.admin_backend import AdminBackend
from translator.app import build_app
from translator.backend import Backend
from translator.config import TranslatorConfig
from translator.console import page
from translator.errors import ApiError
from translator.own_key import OwnKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scripted_backend import House

PATHS = ("/", "/console/models", "/console/stats")


class Outline(HTMLParser):
    """What a page loads, and what runs in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.inline: dict[str, list[str]] = {"script": [], "style": []}
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: Sequence[tuple[str, str | None]]) -> None:
        self._within = tag
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "action")]
        self.handlers += [name for name, _ in attributes if name.startswith("on") or name == "style"]

    def handle_data(self, data: str) -> None:
        if self._within in self.inline:
            self.inline[self._within].append(data)

    def handle_endtag(self, tag: str) -> None:
        self._within = ""


def test_the_page_runs_its_own_text_alone(http: httpx.Client) -> None:
    response = http.get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(
        part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";")
    )
    outline = Outline(response.text)
    for name, texts in outline.inline.items():
        (text,) = texts
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{name}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert not outline.handlers
    assert response.headers["x-content-type-options"] == "nosniff"


def test_the_page_needs_nothing_from_elsewhere(http: httpx.Client) -> None:
    text = http.get("/").text
    for address in Outline(text).addresses:
        assert address.startswith(("data:", "#")) or address == "docs"
    assert set(re.findall(r"https?://[\w./-]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|import[ (]", text)


def test_nothing_becomes_markup(http: httpx.Client) -> None:
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert way not in http.get("/").text


def test_every_script_is_in_the_page() -> None:
    folder = Path(page.__file__).parent
    assert {file.name for file in folder.glob("*.js")} == set(page.SCRIPTS)


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_a_body(path: str, http: httpx.Client) -> None:
    head, get = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert head.headers["cache-control"] == ("no-cache" if path == "/" else "no-store")


def test_models_say_what_their_form_needs(http: httpx.Client) -> None:
    (model,) = http.get("/console/models").json()["models"]
    assert model["id"] == MODEL
    assert (model["max_model_len"], model["can_generate"], model["has_chat_template"]) == (64, True, True)
    assert model["default_sampling"] == {"temperature": 0.2}


def test_models_are_not_known_while_the_server_loads(http: httpx.Client, house: House) -> None:
    house.servicer.not_ready = "the model is loading"
    response = http.get("/console/models")
    assert response.status_code == 503
    assert "the model is loading" in response.json()["error"]["message"]


def test_stats_say_how_they_are_had(http: httpx.Client) -> None:
    stats = http.get("/console/stats").json()
    assert not stats["available"]
    assert "--admin-target" in stats["reason"]


async def test_stats_are_the_engines() -> None:
    async with serve(FakeEngine()) as server:
        server.engine.stats = EngineStats(
            num_free_blocks=5, num_owned_blocks=2, num_cached_blocks=1, block_size=4, num_generated_tokens=7
        )
        backend, admin = Backend(server.target, 10.0), AdminBackend(server.admin_target, 10.0)
        config = TranslatorConfig()
        operators = build_app(config, backend, admin=admin)
        watchers = build_app(config, backend, stats=admin)
        for app, status_of_unload in ((operators, 404), (watchers, 403)):
            transport: Any = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                answer = (await client.get("/console/stats")).json()
                refused = await client.post("/v1/unload_lora_adapter", json={"lora_name": "none"})
            assert (answer["available"], answer["ready"], answer["num_engine_restarts"]) == (True, True, 0)
            engine = answer["engine"]
            assert (engine["num_free_blocks"], engine["num_owned_blocks"], engine["num_cached_blocks"]) == (
                5,
                2,
                1,
            )
            assert engine["num_generated_tokens"] == 7
            # To know the figures is not to be allowed to change what is served.
            assert refused.status_code == status_of_unload
        await backend.close()
        await admin.close()


async def test_who_sees_no_stats_for_want_of_the_translators_key_is_told_so() -> None:
    operators = KeyRing([parse_key("ops:key-of-ops")])
    async with serve(FakeEngine(), admin_keys=operators) as server:
        for given, is_available in ((None, False), ("ops:other", False), ("ops:key-of-ops", True)):
            own_key = OwnKey([] if given is None else [Secret(given)])
            backend = Backend(server.target, 10.0)
            stats = AdminBackend(server.admin_target, 10.0, own_key)
            transport: Any = httpx.ASGITransport(build_app(TranslatorConfig(), backend, stats=stats))
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                response = await client.get("/console/stats")
            assert (response.status_code, response.json()["available"]) == (200, is_available)
            assert is_available or "--admin-api-key-file" in response.json()["reason"]
            await backend.close()
            await stats.close()


class Silent(admin_pb2_grpc.AdminServiceServicer):
    async def GetStats(self, request: admin_pb2.GetStatsRequest, context: Any) -> admin_pb2.GetStatsResponse:
        await abort(context, grpc.StatusCode.UNAVAILABLE, "gone")
        return admin_pb2.GetStatsResponse()


def test_stats_of_a_server_that_is_gone() -> None:
    silent = Silent()  # type: ignore[abstract]  # the console asks for nothing else
    with serving(silent) as house, httpx.Client(base_url=house.url, timeout=20) as http:
        assert http.get("/console/stats").status_code == 503


async def test_a_server_that_is_gone_is_looked_for_again_and_again() -> None:
    """By default gRPC waits longer each time, up to two minutes."""
    num_looks = 0

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_looks
        num_looks += 1
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as door:
        stats = AdminBackend("{}:{}".format(*door.sockets[0].getsockname()), 10.0)
        async with asyncio.timeout(10):
            while num_looks < 6:
                with pytest.raises(ApiError, match=r"server"):
                    await stats.get_stats("r-1")
                await asyncio.sleep(0.05)
        await stats.close()
