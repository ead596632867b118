"""What headers and settings say about a request, over real sockets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from scripted_backend import serving

if TYPE_CHECKING:
    from scripted_backend import House

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
}
paths = pytest.mark.parametrize("path", BODIES)


@paths
@pytest.mark.parametrize(
    ("header", "field", "expected"),
    [("h-1", "b-1", "h-1"), (None, "b-1", "b-1"), ("not usable!", "b-1", "b-1"), ("h-1", None, "h-1")],
)
def test_the_header_names_a_request_before_its_body_does(
    http: httpx.Client, house: House, path: str, header: str | None, field: str | None, expected: str
) -> None:
    headers = {} if header is None else {"x-request-id": header}
    response = http.post(path, json=BODIES[path] | {"request_id": field}, headers=headers)
    assert response.json()["id"].endswith(f"-{expected}")
    assert response.headers["x-request-id"] == expected
    assert house.servicer.metadata[0]["x-request-id"] == expected


@paths
def test_the_header_sets_the_priority_before_the_body_does(
    http: httpx.Client, house: House, path: str
) -> None:
    for headers, priority in (({}, 3), ({"X-Vllm-Priority": "-7"}, -7), ({"X-Vllm-Priority": "0"}, 0)):
        http.post(path, json=BODIES[path] | {"priority": 3}, headers=headers)
        assert house.servicer.specs[-1].scheduling.priority == priority


@paths
@pytest.mark.parametrize("value", ["", "high", "1.5", "2147483648", "-2147483649", "1" * 5000, "--1"])
def test_a_priority_that_is_none_is_refused(http: httpx.Client, path: str, value: str) -> None:
    response = http.post(path, json=BODIES[path], headers={"X-Vllm-Priority": value})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "X-Vllm-Priority"


@paths
def test_the_settings_may_force_the_usage(path: str) -> None:
    with serving(force_include_usage=True) as house, httpx.Client(base_url=house.url, timeout=20) as http:
        lines = http.post(path, json=BODIES[path] | {"stream": True}).text.split("\n\n")
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
        assert [chunk["usage"]["completion_tokens"] for chunk in chunks][-1] == 2
        assert chunks[-1]["choices"] == []
        assert "usage" in http.post(path, json=BODIES[path]).json()
