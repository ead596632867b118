"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, as vLLM has them.

They act on the server for all its callers and name paths on its machine, so they are refused unless the
translator is told where the server's AdminService listens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from starlette.responses import Response

from pagewire.v1 import admin_pb2
from translator.errors import ApiError
from translator.fields import Endpoint
from translator.requests import read_json_body, request_id_of, require_operator, until_disconnect
from translator.schema import RequestBody, parse_request

if TYPE_CHECKING:
    from starlette.requests import Request

    from translator.admin_backend import AdminBackend


class LoadAdapterBody(RequestBody, kw_only=True):
    """An adapter to load."""

    lora_name: str
    lora_path: str
    load_inplace: bool | None = None


class UnloadAdapterBody(RequestBody, kw_only=True):
    """An adapter to forget."""

    lora_name: str


async def load_adapter(request: Request) -> Response:
    """Load an adapter and serve it by name."""
    admin = _admin_of(request)
    body = parse_request(await read_json_body(request), LoadAdapterBody, Endpoint.LOAD_ADAPTER)
    asked = admin_pb2.LoadAdapterRequest(
        name=body.lora_name, path=body.lora_path, replace=bool(body.load_inplace)
    )
    await until_disconnect(request.receive, admin.load_adapter(asked, request_id_of(request)))
    return _success(body.lora_name, "added")


async def unload_adapter(request: Request) -> Response:
    """Forget an adapter, once the requests that use it have ended."""
    admin = _admin_of(request)
    body = parse_request(await read_json_body(request), UnloadAdapterBody, Endpoint.UNLOAD_ADAPTER)
    asked = admin_pb2.UnloadAdapterRequest(name=body.lora_name)
    await until_disconnect(request.receive, admin.unload_adapter(asked, request_id_of(request)))
    return _success(body.lora_name, "removed")


def _admin_of(request: Request) -> AdminBackend:
    require_operator(request)
    admin = cast("AdminBackend | None", request.app.state.admin)
    if admin is None:
        raise ApiError(
            403,
            "Adapters are loaded and unloaded through the server's AdminService. To allow it over HTTP, start"
            " the translator with --admin-target.",
            kind="permission_error",
            code="permission_denied",
        )
    return admin


def _success(name: str, what: str) -> Response:
    return Response(f"Success: LoRA adapter '{name}' {what} successfully.", media_type="text/plain")
