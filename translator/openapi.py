"""GET /openapi.json: the routes, in OpenAPI 3.1, made from the types that parse them."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, cast

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from translator.error_bodies import is_anthropic
from translator.fields import FIELDS, Support
from translator.openapi_answers import ANSWERS, TEXT, Schema, constant, ref
from translator.openapi_operations import OPERATIONS, example_of
from translator.sse import encode_json
from translator.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from starlette.requests import Request
    from starlette.routing import BaseRoute

    from translator.fields import Field
    from translator.openapi_operations import Body, Operation

_DESCRIPTION = (
    "A language model server that speaks OpenAI's and Anthropic's APIs. Unknown paths are answered with 404,"
    " other methods with 405 and the Allow header, headers that are too long with 431. Fields that are not"
    " listed are ignored. A request may name itself in X-Request-Id; every answer names it there."
)
_REASONS = {
    400: "The request is refused; the message names the field.",
    401: "The API key is missing or not valid.",
    403: "The API key does not allow this.",
    404: "There is no such model, adapter or response.",
    408: "The body did not arrive in time.",
    413: "The body or the prompt is too large.",
    429: "The server is busy. Wait as long as Retry-After says.",
    431: "The headers are too long.",
    500: "The server had an error.",
    501: "The model server does not implement this.",
    503: "The server cannot serve now. Wait as long as Retry-After says.",
    504: "The request was not done before its deadline.",
}
_RETRIED = (429, 503)
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key of --api-key or --api-key-file."},
    "anthropic": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same key."},
}
_MARKED_STREAMS = ("ChatCompletionChunk", "CompletionChunk")
_REQUEST_ID: Schema = {"type": "string", "description": "Id of the request, for the operator's log."}
_REQUEST_ID_PARAMETER = {
    "name": "x-request-id",
    "in": "header",
    "required": False,
    "description": (
        "Names the request: up to 128 letters, digits, dots, dashes and underscores. Another is replaced."
    ),
    "schema": TEXT,
}


class OpenApi:
    """The document of an application, made when it is first asked for."""

    def __init__(self, routes: Sequence[BaseRoute], open_paths: frozenset[str] | None = None) -> None:
        """`open_paths` need no key where the others do; None: no path does."""
        self._routes = routes
        self._open_paths = open_paths

    @functools.cached_property
    def encoded(self) -> bytes:
        """The document as JSON."""
        return encode_json(make_document(self._routes, self._open_paths))


async def openapi(request: Request) -> Response:
    """Return the document."""
    document = cast("OpenApi", request.app.state.openapi)
    return Response(document.encoded, media_type="application/json")


def make_document(routes: Iterable[BaseRoute], open_paths: frozenset[str] | None = None) -> dict[str, Any]:
    """Return the document of these routes. Each must have an entry in OPERATIONS.

    `open_paths` need no key where the others do; None: no path does.
    """
    paths: dict[str, dict[str, Any]] = {}
    bodies: dict[str, Body] = {}
    for route in routes:
        assert isinstance(route, Route)
        path = re.sub(r":\w+}", "}", route.path)
        for method in sorted(route.methods or ()):
            operation = OPERATIONS["GET" if method == "HEAD" else method, path]
            described = _operation(operation, method, path)
            if open_paths is not None and path not in open_paths:
                described["security"] = _key_of(path)
            paths.setdefault(path, {})[method.lower()] = described
            bodies |= {body.name: body for body in operation.bodies}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Pagewire", "version": VERSION, "description": _DESCRIPTION},
        "paths": paths,
        "components": {"schemas": _schemas(list(bodies.values())), "securitySchemes": _KEYS},
    }


def _operation(operation: Operation, method: str, path: str) -> dict[str, Any]:
    name = re.sub(r"\W+", "_", path).strip("_")
    described: dict[str, Any] = {
        "operationId": f"{method.lower()}_{name}",
        "summary": operation.summary + ("." if method != "HEAD" else ", without a body."),
        "tags": [operation.tag],
        "parameters": [_REQUEST_ID_PARAMETER, *_parameters(operation, path)],
        "responses": {
            str(status): answer for status, answer in _answers(operation, path, has_content=method != "HEAD")
        },
    }
    if operation.bodies:
        described["requestBody"] = _request_body(operation)
    return described


def _key_of(path: str) -> list[dict[str, list[str]]]:
    """The ways in which a path takes the key."""
    return [{"bearer": []}, {"anthropic": []}] if is_anthropic(path) else [{"bearer": []}]


def _parameters(operation: Operation, path: str) -> Iterator[dict[str, Any]]:
    for name in re.findall(r"{(\w+)}", path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    for parameter in operation.query:
        yield {
            "name": parameter.name,
            "in": "query",
            "required": False,
            "description": parameter.what,
            "schema": parameter.schema,
        }


def _request_body(operation: Operation) -> dict[str, Any]:
    schemas = [ref(body.name) for body in operation.bodies]
    content: dict[str, Any] = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}
    examples = {body.name: {"value": example_of(body.name)} for body in operation.bodies}
    return {"required": True, "content": {"application/json": content | {"examples": examples}}}


def _answers(operation: Operation, path: str, *, has_content: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    schema = TEXT if operation.answer is None else ref(operation.answer)
    content: dict[str, Any] = {operation.media_type: {"schema": schema}}
    what = "The answer."
    if operation.event is not None:
        what = f"The answer, or a stream of server-sent events, each of them a {operation.event}."
        content["text/event-stream"] = {"schema": _event(operation.event)}
    yield 200, _answer(what, content if has_content else {})
    for status in sorted({*operation.statuses, 431}):
        name = "AnthropicError" if is_anthropic(path) else "Error"
        if status == 503 and operation.unready:
            name = operation.unready
        content = {"application/json": {"schema": ref(name)}}
        yield status, _answer(_REASONS[status], content if has_content else {}, status in _RETRIED)


def _event(name: str) -> Schema:
    """One event of a stream: its data is JSON, but for OpenAI's mark of the end."""
    data = TEXT | {"contentMediaType": "application/json", "contentSchema": ref(name)}
    if name in _MARKED_STREAMS:
        data = {"anyOf": [constant("[DONE]"), data]}
    return {"type": "object", "properties": {"event": TEXT, "data": data}, "required": ["data"]}


def _answer(what: str, content: dict[str, Any], is_retried: bool = False) -> dict[str, Any]:
    headers: dict[str, Any] = {"x-request-id": {"required": True, "schema": _REQUEST_ID}}
    if is_retried:
        headers["retry-after"] = {"schema": {"type": "integer", "minimum": 1}}
    answer: dict[str, Any] = {"description": what, "headers": headers}
    return answer | ({"content": content} if content else {})


def _schemas(bodies: Sequence[Body]) -> dict[str, Schema]:
    _, components = msgspec.json.schema_components(
        [body.type for body in bodies], ref_template="#/components/schemas/{name}"
    )
    for body in bodies:
        _explain(components[body.name], body)
    document: Schema = {"type": "object", "required": ["openapi", "info", "paths"]}
    portable: dict[str, Schema] = _portable(components)
    return portable | ANSWERS | {"Document": document}


def _explain(schema: Schema, body: Body) -> None:
    """Say what each field does, and list those that are known and not honoured."""
    schema["description"] = "Fields that are not listed are ignored."
    properties = schema["properties"]
    for field in FIELDS:
        if not field.endpoint & body.endpoint:
            continue
        if field.name in properties:
            properties[field.name]["description"] = field.note
        elif field.support is Support.REFUSED:
            properties[field.name] = _refused(field)
        elif field.support is Support.IGNORED:
            properties[field.name] = {"description": f"Ignored: {field.note}."}


def _refused(field: Field) -> Schema:
    """List the values that ask for nothing. JSON tells false from 0, though we take one for the other."""
    neutral: list[object] = [None, "", [], {}]
    for value in field.neutral:
        neutral.append(value)
        if isinstance(value, bool | int) and value in (0, 1):
            neutral.append(int(value) if isinstance(value, bool) else bool(value))
    return {"enum": neutral, "description": f"Refused: {field.note}."}


def _portable(value: Any) -> Any:
    """Write patterns as JSON Schema has them: Python's mark for the end of a text is its own."""
    if isinstance(value, dict):
        return {
            key: each.replace(r"\Z", "$") if key == "pattern" and isinstance(each, str) else _portable(each)
            for key, each in value.items()
        }
    return [_portable(each) for each in value] if isinstance(value, list) else value
