"""POST /v1/responses, and what can be done with a stored response."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from starlette.requests import Request
from starlette.responses import Response

from pagewire.v1 import models_pb2
from translator.errors import ApiError
from translator.fields import Endpoint
from translator.patience import patience_of
from translator.peers import Relayed
from translator.request_headers import apply_headers
from translator.requests import (
    backend_of,
    config_of,
    owner_of,
    read_parsed,
    request_id_of,
    until_disconnect,
)
from translator.response_items import referenced_ids
from translator.response_plan import kept_items, plan_response
from translator.response_request import parse_response_request
from translator.response_run import ResponseRun
from translator.sse import EventStream, StreamFormat, encode_event, encode_json

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from translator.peers import Peers
    from translator.response_background import BackgroundRun
    from translator.response_items import Item
    from translator.response_object import Body
    from translator.response_plan import ResponsePlan
    from translator.response_request import ResponseRequest
    from translator.response_shelf import ResponseShelf

# What is refused, is refused within milliseconds: so a background request can still be answered with 400.
ADMISSION_WAIT_S = 1.0
_MAX_PAGE = 100

Handler = Callable[[Request], Awaitable[Response]]


def _fault_frame(error: ApiError, request_id: str) -> bytes:
    event = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
    return encode_event("error", event)


RESPONSE_STREAM = StreamFormat(_fault_frame, done=b"")


def where_it_lies(handler: Handler) -> Handler:
    """Let a response's own process answer, whichever one was asked."""

    @functools.wraps(handler)
    async def answer(request: Request) -> Response:
        shelf = _shelf_of(request)
        holder = shelf.holder_of(request.path_params["response_id"])
        if holder is None or shelf.peers is None:
            return await handler(request)
        return await _relay(request, shelf.peers, holder)

    return answer


async def create_response(request: Request) -> Response:
    """Answer a conversation: at once, as a stream, or in the background."""
    asked = await read_parsed(request, parse_response_request)
    apply_headers(request, asked)
    shelf = _shelf_of(request)
    plan = await _plan(request, asked)
    patience = patience_of(request, streams=bool(asked.stream), background=bool(asked.background))
    generation = backend_of(request).generate(
        plan.spec, request_id_of(request), Endpoint.RESPONSES, asked.given, patience
    )
    run = ResponseRun(plan, generation, shelf.store)
    if asked.background:
        return await _run_in_background(request, run, streams=bool(asked.stream))
    is_handed_over = False
    try:
        await until_disconnect(request.receive, run.start())
        if asked.stream:
            is_handed_over = True
            return _stream(request, run.frames(), run)
        return _json(await until_disconnect(request.receive, run.whole()))
    finally:
        if not is_handed_over:
            run.close()


@where_it_lies
async def get_response(request: Request) -> Response:
    """Return a response, or the rest of its stream if it ran in the background."""
    shelf, response_id = _shelf_of(request), request.path_params["response_id"]
    after = _integer(request, "starting_after", -1, least=-1)
    streams = _flag(request, "stream")
    if after >= 0 and not streams:
        raise ApiError(400, "starting_after: only allowed together with stream.", param="starting_after")
    run = shelf.runs.get(owner_of(request), response_id)
    if run is not None:
        return _stream(request, run.tail(after)) if streams else _json(run.run.body)
    stored = shelf.store.get(owner_of(request), response_id)
    if stored is None:
        raise _not_found(response_id)
    if not streams:
        return Response(stored.body_json, media_type="application/json")
    if not stored.frames:
        raise ApiError(400, "stream: only responses that were made in the background can be streamed again.")
    return _stream(request, _replay(stored.frames[after + 1 :]))


@where_it_lies
async def delete_response(request: Request) -> Response:
    """Forget a response; one that runs is cancelled first."""
    shelf, response_id = _shelf_of(request), request.path_params["response_id"]
    run = shelf.runs.get(owner_of(request), response_id)
    if run is not None:
        await _cancel(run)
    if not shelf.store.delete(owner_of(request), response_id) and run is None:
        raise _not_found(response_id)
    return _json({"id": response_id, "object": "response", "deleted": True})


@where_it_lies
async def cancel_response(request: Request) -> Response:
    """Cancel a response that runs in the background. One that has ended is returned as it is."""
    shelf, response_id = _shelf_of(request), request.path_params["response_id"]
    run = shelf.runs.get(owner_of(request), response_id)
    if run is not None:
        await _cancel(run)
        return _json(run.run.body)
    stored = shelf.store.get(owner_of(request), response_id)
    if stored is None:
        raise _not_found(response_id)
    if not stored.body()["background"]:
        raise ApiError(400, "Cannot cancel a synchronous response.", param="response_id")
    return Response(stored.body_json, media_type="application/json")


@where_it_lies
async def list_input_items(request: Request) -> Response:
    """List what a response was made from: its own input, and the turns before it that are still kept."""
    items = await _input_of(request)
    order = request.query_params.get("order", "desc")
    if order not in ("asc", "desc"):
        raise ApiError(400, f"order: expected asc or desc, got {order[:40]!a}.", param="order")
    if order == "desc":
        items.reverse()
    after = request.query_params.get("after")
    if after is not None:
        ids = [item["id"] for item in items]
        if after not in ids:
            raise ApiError(400, f"after: no item has the id {after[:100]!a}.", param="after")
        items = items[ids.index(after) + 1 :]
    limit = _integer(request, "limit", 20, least=1, most=_MAX_PAGE)
    page = items[:limit]
    return _json(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(items) > limit,
        }
    )


async def count_input_tokens(request: Request) -> Response:
    """Tell how many tokens a request's prompt has."""
    asked = await read_parsed(request, parse_response_request)
    plan = await _plan(request, asked)
    question = models_pb2.TokenizeRequest(model=plan.spec.model, chat=plan.spec.chat)
    patience = patience_of(request, streams=False)
    call = backend_of(request).tokenize(question, request_id_of(request), Endpoint.RESPONSES, patience)
    answer = await until_disconnect(request.receive, call)
    return _json({"object": "response.input_tokens", "input_tokens": len(answer.token_ids)})


async def _plan(request: Request, asked: ResponseRequest) -> ResponsePlan:
    shelf, owner = _shelf_of(request), owner_of(request)
    known = await shelf.earlier(owner, asked.previous_response_id, referenced_ids(asked.input or ""))
    return plan_response(asked, shelf.new_id(), known, owner, config_of(request).max_body_bytes)


async def _run_in_background(request: Request, run: ResponseRun, *, streams: bool) -> Response:
    shelf = _shelf_of(request)
    background = shelf.runs.begin(run)
    try:
        await background.until_admitted(ADMISSION_WAIT_S)
    except ApiError:
        await background.until_done()
        shelf.store.delete(run.owner, run.body["id"])
        raise
    if streams:
        return _stream(request, background.tail(-1))
    return _json(run.body)


async def _relay(request: Request, peers: Peers, holder: int) -> Response:
    scope = request.scope
    asked = Relayed(
        scope["method"], scope["path"], scope["query_string"], request_id_of(request), owner_of(request)
    )
    relay = peers.relay(holder, asked)
    is_handed_over = False
    try:
        head = await until_disconnect(request.receive, relay.head())
        if head.is_stream:
            is_handed_over = True
            return EventStream(relay.body(), relay.cancel, asked.request_id, 0, RESPONSE_STREAM)
        response = Response(await until_disconnect(request.receive, relay.whole()), head.status)
        response.raw_headers = list(head.headers)
        return response
    finally:
        if not is_handed_over:
            relay.cancel()


async def _cancel(run: BackgroundRun) -> None:
    run.stop()
    await run.until_done()


async def _replay(frames: tuple[bytes, ...]) -> AsyncGenerator[bytes, None]:
    yield b"".join(frames)


async def _input_of(request: Request) -> list[Item]:
    shelf, owner = _shelf_of(request), owner_of(request)
    response_id = request.path_params["response_id"]
    run = shelf.runs.get(owner, response_id)
    if run is not None:
        own, previous_id = run.run.input_items, run.run.body["previous_response_id"]
    else:
        stored = shelf.store.get(owner, response_id)
        if stored is None:
            raise _not_found(response_id)
        own, previous_id = stored.input_items(), stored.body()["previous_response_id"]
    known = await shelf.earlier(owner, previous_id)
    return [*kept_items(known, owner, previous_id), *own]


def _stream(
    request: Request, frames: AsyncGenerator[bytes, None], run: ResponseRun | None = None
) -> Response:
    """Return a stream. `run` ends with it; without one it is only watched."""
    keep_alive_s = config_of(request).sse_keep_alive_s
    close = (lambda: None) if run is None else run.close
    return EventStream(frames, close, request_id_of(request), keep_alive_s, RESPONSE_STREAM)


def _flag(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false")
    if text not in ("true", "false"):
        raise ApiError(400, f"{name}: expected true or false, got {text[:40]!a}.", param=name)
    return text == "true"


def _integer(request: Request, name: str, default: int, *, least: int, most: int = 2**31 - 1) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    # Digits alone: int() takes signs, spaces and other alphabets too.
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 11 else None
    if number is None or not least <= number <= most:
        expected = f"expected a whole number from {max(least, 0)} to {most}"
        raise ApiError(400, f"{name}: {expected}, got {text[:40]!a}.", param=name)
    return number


def _not_found(response_id: str) -> ApiError:
    return ApiError(404, f"Response with id '{response_id[:100]}' not found.", param="response_id")


def _shelf_of(request: Request) -> ResponseShelf:
    return cast("ResponseShelf", request.app.state.responses)


def _json(body: Body | dict[str, Any]) -> Response:
    return Response(encode_json(body), media_type="application/json")
