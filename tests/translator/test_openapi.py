"""The OpenAPI document: complete, well-formed, and true of what the routes answer."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from scripted_backend import serving
from starlette.routing import Route

from gate.keys import parse_key
from translator.app import ROUTES
from translator.openapi import make_document
from translator.openapi_operations import OPERATIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENT = make_document(ROUTES)


def schemas_within(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from schemas_within(each)


def test_every_route_is_in_the_document() -> None:
    for route in ROUTES:
        assert isinstance(route, Route)
        path = re.sub(r":\w+}", "}", route.path)
        for method in route.methods or ():
            assert method.lower() in DOCUMENT["paths"][path]


def test_every_operation_has_a_route() -> None:
    for method, path in OPERATIONS:
        assert method.lower() in DOCUMENT["paths"][path]


def test_references_lead_somewhere() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for value in schemas_within(DOCUMENT):
        if isinstance(value.get("$ref"), str):
            assert value["$ref"].removeprefix("#/components/schemas/") in schemas
        if isinstance(value.get("pattern"), str):
            assert "\\Z" not in value["pattern"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in schemas)


def test_operation_ids_are_unique() -> None:
    ids = [operation["operationId"] for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))


def test_fields_say_what_they_do() -> None:
    properties = DOCUMENT["components"]["schemas"]["ChatRequest"]["properties"]
    assert "greedy" in properties["temperature"]["description"]
    assert properties["user"]["description"].startswith("Ignored: ")
    assert properties["audio"]["description"].startswith("Refused: ")
    assert None in properties["audio"]["enum"]


def test_the_document_is_served(http: httpx.Client) -> None:
    response = http.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == json.loads(json.dumps(DOCUMENT))
    assert http.head("/openapi.json").status_code == 200


def test_the_document_says_where_a_key_is_needed() -> None:
    assert DOCUMENT["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert not any(
        "security" in operation for path in DOCUMENT["paths"].values() for operation in path.values()
    )
    key = {"authorization": "Bearer right"}
    with serving(api_keys=(parse_key("right"),)) as house, httpx.Client(base_url=house.url) as http:
        document = http.get("/openapi.json", headers=key).json()
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                status = http.request(method, path.replace("{", "").replace("}", "")).status_code
                assert (status == 401) is ("security" in operation), (method, path)
    chat, messages = (document["paths"][f"/v1/{path}"]["post"] for path in ("chat/completions", "messages"))
    assert chat["security"] == [{"bearer": []}]
    assert messages["security"] == [{"bearer": []}, {"anthropic": []}]


def test_examples_work(http: httpx.Client) -> None:
    for path, methods in DOCUMENT["paths"].items():
        if "post" in methods and "requestBody" in methods["post"]:
            content = methods["post"]["requestBody"]["content"]["application/json"]
            for example in content["examples"].values():
                status = 403 if path.endswith("_lora_adapter") else 200  # this translator may not
                assert http.post(path, json=example["value"]).status_code == status, path


def test_the_page_needs_nothing_from_elsewhere(http: httpx.Client) -> None:
    response = http.get("/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "connect-src 'self'" in response.headers["content-security-policy"]
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", response.text)
    assert "import " not in response.text
    head = http.head("/docs")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/responses/resp_1", "DELETE, GET, HEAD"),
        ("/v1/responses/input_tokens", "POST"),
        ("/v1/models", "GET, HEAD"),
        ("/ping", "GET, HEAD, POST"),
    ],
)
def test_a_refused_method_names_those_that_there_are(path: str, methods: str, http: httpx.Client) -> None:
    response = http.put(path)
    assert response.status_code == 405
    assert response.headers["allow"] == methods
