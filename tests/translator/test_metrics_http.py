"""What the translator counts of those whom it does not know: keys, paths and methods that they make up."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import httpx
from exposition import Scrape, problems
from prometheus_client import generate_latest

from gate.keys import parse_key
from translator.app import build_app
from translator.backend import Backend
from translator.config import TranslatorConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def asking() -> AsyncIterator[tuple[httpx.AsyncClient, Backend]]:
    """A client of a translator that needs a key. Nothing here gets as far as a model server."""
    backend = Backend("127.0.0.1:1", 1.0)
    app = build_app(TranslatorConfig(api_keys=(parse_key("right"),)), backend)
    try:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://translator") as client:
            yield client, backend
    finally:
        await backend.close()


async def test_keys_that_are_missing_or_wrong_are_counted() -> None:
    async with asking() as (client, backend):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer right"}):
            await client.get("/docs", headers=headers)
        await client.post("/v1/messages", headers={"x-api-key": "wrong"}, json={})
        scrape = Scrape(generate_latest(backend.metrics.registry).decode())
    assert scrape.value("pagewire:auth_failures_total", listener="http", reason="missing") == 1
    assert scrape.value("pagewire:auth_failures_total", listener="http", reason="invalid") == 2


async def test_what_callers_make_up_is_no_label() -> None:
    async with asking() as (client, backend):
        for number in range(100):
            await client.request(
                f"VERB{number}", f"/made/up/{number}", headers={"authorization": "Bearer right"}
            )
            await client.get(f"/v1/responses/resp_{number}", headers={"authorization": "Bearer right"})
            await client.get(f"/{number}", headers={"x-request-id": f"id-{number}"})
        text = generate_latest(backend.metrics.registry).decode()
    scrape = Scrape(text)
    assert problems(text) == []
    assert all(len(scrape.labels(name)) <= 50 for name in scrape.names if not name.endswith("_bucket"))
    assert "pagewire:event_loop_lag_seconds" in scrape.names
    assert {labels["handler"] for labels in scrape.labels("http_requests_total")} == {
        "unknown",
        "/v1/responses/{response_id}",
    }
