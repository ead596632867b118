"""What the routes ask of an HTTP request: its body, its id, and whether the client is still there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar, cast

from translator.errors import ApiError, ClientDisconnectedError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.requests import Request
    from starlette.types import Receive

    from translator.backend import Backend
    from translator.config import TranslatorConfig

Result = TypeVar("Result")
_LARGE_BODY_BYTES = 64 * 1024


def backend_of(request: Request) -> Backend:
    """Return the gRPC server's client."""
    return cast("Backend", request.app.state.backend)


def config_of(request: Request) -> TranslatorConfig:
    """Return the settings."""
    return cast("TranslatorConfig", request.app.state.config)


def request_id_of(request: Request) -> str:
    """Return the id under which the request is known."""
    return cast("str", request.scope["state"]["request_id"])


def arrived_s_of(request: Request) -> float:
    """Return when its headers were there, on the clock of `time.monotonic`."""
    return cast("float", request.scope["state"]["arrived_s"])


def owner_of(request: Request) -> str:
    """Return whose stored objects the request may see: those of its key's tenant."""
    return cast("str", request.scope["state"]["owner"])


def require_operator(request: Request) -> None:
    """Let only those pass who show an operator's key; everybody where no key is needed.

    Raises:
        ApiError: 403.
    """
    if not request.scope["state"]["is_operator"]:
        raise ApiError(
            403,
            "The API key does not allow this: it needs an operator's (--admin-api-key).",
            kind="permission_error",
            code="permission_denied",
        )


async def read_json_body(request: Request) -> bytes:
    """Read a body that the client calls JSON.

    A page of another origin may post text to us without asking, but not JSON: so the type counts.

    Raises:
        ApiError: 400, 408 or 413.
        ClientDisconnectedError: the client went before the end.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise ApiError(400, "The Content-Type must be application/json.")
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ApiError(400, "The Content-Encoding must be identity: compressed bodies are not read.")
    body = bytearray()
    timeout_s = config_of(request).body_timeout_s
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnectedError
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError as error:
        raise ApiError(408, f"The body did not arrive within {timeout_s:g} seconds.") from error


async def read_parsed(request: Request, parse: Callable[[bytes], Result]) -> Result:
    """Read a JSON body and parse it: a large one in a thread, so that the loop has its turns meanwhile.

    Raises:
        ApiError: 400, 408 or 413; or what `parse` raises.
        ClientDisconnectedError: the client went before the end.
    """
    body = await read_json_body(request)
    return parse(body) if len(body) < _LARGE_BODY_BYTES else await asyncio.to_thread(parse, body)


async def disconnected(receive: Receive) -> None:
    """Wait until the client has gone. The request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def until_disconnect(receive: Receive, work: Coroutine[object, object, Result]) -> Result:
    """Return what `work` returns, but cancel it if the client goes first.

    Raises:
        ClientDisconnectedError: the client has gone.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnectedError
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)
