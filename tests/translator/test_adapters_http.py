"""Loading and unloading adapters over HTTP, before a fake engine's AdminService."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import httpx
from fakes import FakeEngine, serve

from translator.admin_backend import AdminBackend
from translator.app import build_app
from translator.backend import Backend
from translator.config import TranslatorConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def calling(*, has_admin: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    async with serve(FakeEngine(), names=("base",), max_adapters=1) as server:
        backend, admin = Backend(server.target, 10.0), AdminBackend(server.admin_target, 10.0)
        app = build_app(TranslatorConfig(), backend, admin if has_admin else None)
        transport: Any = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client
        await backend.close()
        await admin.close()


async def load(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post("/v1/load_lora_adapter", json=body)


async def test_loads_lists_replaces_and_unloads() -> None:
    async with calling() as client:
        response = await load(client, lora_name="sql", lora_path="/adapters/sql-v1")
        assert response.status_code == 200
        assert response.text == "Success: LoRA adapter 'sql' added successfully."
        card = (await client.get("/v1/models/sql")).json()
        assert (card["id"], card["root"], card["parent"]) == ("sql", "sql-v1", "base")
        response = await load(client, lora_name="sql", lora_path="/adapters/sql-v2", load_inplace=True)
        assert response.status_code == 200
        assert (await client.get("/v1/models/sql")).json()["root"] == "sql-v2"
        response = await client.post("/v1/unload_lora_adapter", json={"lora_name": "sql"})
        assert response.text == "Success: LoRA adapter 'sql' removed successfully."
        assert (await client.get("/v1/models/sql")).status_code == 404


async def test_refusals_name_the_field_or_the_adapter() -> None:
    async with calling() as client:
        await load(client, lora_name="sql", lora_path="/adapters/sql")
        for body, status, param, part in (
            ({"lora_path": "/x"}, 400, "lora_name", "lora_name"),
            ({"lora_name": "x"}, 400, "lora_path", "lora_path"),
            ({"lora_name": "", "lora_path": "/x"}, 400, "lora_name", "is needed"),
            ({"lora_name": "sql", "lora_path": "/x"}, 400, None, "'sql'"),
            ({"lora_name": "base", "lora_path": "/x"}, 400, None, "'base'"),
            ({"lora_name": "art", "lora_path": "/x"}, 400, None, "--max-cpu-loras"),
            ({"lora_name": "sql", "lora_path": "/broken", "load_inplace": True}, 400, "lora_path", "/broken"),
        ):
            response = await load(client, **body)
            error = response.json()["error"]
            assert (response.status_code, error["param"]) == (status, param), error
            assert part in error["message"]
        response = await client.post("/v1/unload_lora_adapter", json={"lora_name": "nope"})
        assert response.status_code == 404
        assert "'nope'" in response.json()["error"]["message"]


async def test_a_translator_that_may_not_says_so() -> None:
    async with calling(has_admin=False) as client:
        for route in ("load", "unload"):
            response = await client.post(f"/v1/{route}_lora_adapter", json={"lora_name": "x"})
            assert response.status_code == 403
            assert "--admin-target" in response.json()["error"]["message"]
