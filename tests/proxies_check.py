"""Runs the proxies of deploy/proxies in front of one real server: `proxies_check.py ENVOY`.

Through each, both doors must behave as they do without it. A proxy that is not here is skipped, and named.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from processes import pagewire_up, wait_until
from proxy_processes import Proxy, recipes, running

from pagewire import (
    AccessDeniedError,
    Client,
    InvalidRequestError,
    OverloadedError,
    RequestCancelledError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from processes import House

KEY = "secret-of-the-check"
WRONG_KEY = "key-of-nobody"
QUERY = "query-of-somebody"
HEADERS = {"authorization": f"Bearer {KEY}"}
TIMEOUT_S = 300.0
LIMIT = 8
"""Requests of the tenant that the server takes at once."""
FOREVER = 1500
BRIEF = 48
"""Tokens of a stream that is cut, and of one that ends by itself."""
TOO_LARGE = "x" * (9 << 19)
"""More than the doors take, and less than the proxies do."""


class Doors:
    """Both doors as a caller sees them through a proxy."""

    def __init__(self, proxy: Proxy, stack: contextlib.ExitStack) -> None:
        self.name = proxy.name
        self.proxy = proxy
        self.http = stack.enter_context(
            httpx.Client(base_url=proxy.base_url, headers=HEADERS, timeout=TIMEOUT_S, trust_env=False)
        )
        self.grpc = stack.enter_context(Client(proxy.grpc_target, api_key=KEY, timeout=TIMEOUT_S))

    def ask(self, **fields: Any) -> httpx.Response:
        """POST /v1/completions."""
        return self.http.post("/v1/completions", json=body(**fields), headers={"x-request-id": "mine-7"})

    @contextlib.contextmanager
    def events(self, max_tokens: int) -> Iterator[Iterator[dict[str, Any] | str]]:
        """A stream over HTTP: its events, and the text [DONE]. Left early, it is cancelled."""
        with self.http.stream(
            "POST", "/v1/completions", json=body(max_tokens=max_tokens, stream=True)
        ) as answer:
            assert answer.status_code == 200, answer.read()
            data = (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: "))
            yield (text if text == "[DONE]" else json.loads(text) for text in data)

    @contextlib.contextmanager
    def deltas(self, max_tokens: int) -> Iterator[Iterator[Any]]:
        """A stream over gRPC. Left early, it is cancelled."""
        with self.grpc.stream("Once", max_tokens=max_tokens, ignore_eos=True) as stream:
            yield iter(stream)


def body(**fields: Any) -> dict[str, Any]:
    """A request that ends by its length alone."""
    return {"model": "smollm2-135m-instruct", "prompt": "Once", "ignore_eos": True, "max_tokens": 4} | fields


def unary(doors: Doors, house: House) -> None:
    """Answers and their request ids."""
    answer = doors.ask()
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-request-id"] == "mine-7"
    assert answer.json()["usage"]["completion_tokens"] == 4
    assert doors.grpc.generate("Once", max_tokens=4, ignore_eos=True).usage.num_completion_tokens == 4
    assert doors.grpc.is_ready()
    assert doors.http.get("/health/ready").status_code == 200


def streams_and_cancels(doors: Doors, house: House) -> None:
    """Events arrive while the server still generates, and who leaves frees the sequence."""
    for stream in (doors.events, doors.deltas):
        with stream(FOREVER) as events:
            for _ in range(3):
                next(events)
            assert house.stats().engine.num_running == 1, "three events are here, and more are to come"
        house.wait_until_idle()


def errors(doors: Doors, house: House) -> None:
    """Statuses, details and trailers."""
    answer = doors.ask(temperature=9)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "temperature")
    with pytest.raises(InvalidRequestError) as raised:
        doors.grpc.generate("Once", temperature=9, request_id="mine-8")
    assert raised.value.violations[0].field == "spec.sampling.temperature"
    assert raised.value.request_id == "mine-8"


def sizes(doors: Doors, house: House) -> None:
    """What is too large is refused by the doors, over HTTP in their words.

    Over gRPC the server refuses before all has come, and some proxies end the call without its status.
    """
    answer = doors.ask(prompt=TOO_LARGE)
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "invalid_request_error")
    with pytest.raises((OverloadedError, RequestCancelledError)):
        doors.grpc.generate(TOO_LARGE)


def limits(doors: Doors, house: House) -> None:
    """A refusal says when to come back."""
    with contextlib.ExitStack() as stack:
        for stream in (doors.events, doors.deltas) * (LIMIT // 2):
            next(stack.enter_context(stream(FOREVER)))
        answer = doors.ask()
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "tenant_limit")
        assert int(answer.headers["retry-after"]) >= 1
        with pytest.raises(OverloadedError) as raised:
            doors.grpc.generate("Once")
        assert raised.value.reason == "TENANT_LIMIT"
        assert raised.value.retry_after_s == 1
    house.wait_until_idle()


def addresses(doors: Doors, house: House) -> None:
    """The proxy's log tells by a request's id, and by its refusal, where it came from; and no secrets."""
    assert doors.grpc.generate("Once", max_tokens=1, request_id="mine-9").usage.num_completion_tokens == 1
    stranger = Client(doors.proxy.grpc_target, api_key=WRONG_KEY, timeout=TIMEOUT_S)
    with stranger, pytest.raises(AccessDeniedError):
        stranger.generate("Once", request_id="mine-10")
    answer = doors.http.get(
        f"/v1/models?{QUERY}", headers={"authorization": f"Bearer {WRONG_KEY}", "x-request-id": "mine-11"}
    )
    assert answer.status_code == 401

    def origins() -> dict[str, tuple[str, str, str]]:
        lines = [line for line in doors.proxy.log.read_text().splitlines() if line.startswith("{")]
        return {
            entry[field]: (entry["client"], str(entry["status"]), str(entry.get("grpc_status", "")))
            for entry in map(json.loads, lines)
            for field in entry.keys() & {"request_id", "sent_request_id"}
        }

    ids = {"mine-9", "mine-10", "mine-11"}
    wait_until(lambda: ids <= origins().keys(), "the log has the calls", TIMEOUT_S)
    found = origins()
    assert found["mine-9"][:2] == ("127.0.0.1", "200")
    assert found["mine-10"] == ("127.0.0.1", "200", "16")
    assert found["mine-11"][:2] == ("127.0.0.1", "401")
    shown = doors.proxy.log.read_text()
    assert not [secret for secret in (KEY, WRONG_KEY, QUERY) if secret in shown]


SCENES: tuple[Callable[[Doors, House], None], ...] = (
    unary,
    streams_and_cancels,
    errors,
    sizes,
    limits,
    addresses,
)


def drain(all_doors: list[Doors], house: House) -> None:
    """Open streams end as they should; new requests are refused, and not left waiting."""
    with contextlib.ExitStack() as stack, concurrent.futures.ThreadPoolExecutor() as readers:
        streams = [
            stack.enter_context(stream(BRIEF)) for each in all_doors for stream in (each.events, each.deltas)
        ]
        for events in streams:
            next(events)
        house.process.send_signal(signal.SIGTERM)
        refused_somewhere = readers.map(refused, all_doors)
        ends = list(readers.map(lambda events: list(events)[-1], streams))
        assert all(refused_somewhere)
    assert house.process.wait(TIMEOUT_S) == 0
    assert ends[::2] == ["[DONE]"] * len(all_doors), ends
    assert all(event.HasField("finished") for event in ends[1::2]), ends


def refused(doors: Doors) -> bool:
    """Whether a new request is refused over both doors, once the drain has begun."""

    def over_http() -> bool:
        return doors.ask().status_code in (502, 503)

    def over_grpc() -> bool:
        try:
            doors.grpc.generate("Once", max_tokens=1, ignore_eos=True)
        except UnavailableError:
            return True
        return False

    wait_until(over_http, f"HTTP through {doors.name} refuses", TIMEOUT_S)
    wait_until(over_grpc, f"gRPC through {doors.name} refuses", TIMEOUT_S)
    return True


def check(house: House, envoy: str, folder: Path) -> None:
    """Run all scenes through all proxies, then drain the server behind all of them."""
    with contextlib.ExitStack() as stack:
        all_doors = []
        for recipe in recipes(envoy):
            if not recipe.is_there:
                sys.stdout.write(f"SKIPPED: {recipe.name} is not on this machine. See CONTRIBUTING.md.\n")
                continue
            doors = Doors(stack.enter_context(running(recipe, house, folder / recipe.name)), stack)
            for scene in SCENES:
                scene(doors, house)
                sys.stdout.write(f"ok {doors.name}: {scene.__name__.replace('_', ' ')}\n")
                sys.stdout.flush()
            all_doors.append(doors)
        drain(all_doors, house)
        sys.stdout.write(f"ok drain behind {', '.join(doors.name for doors in all_doors)}\n")


def main(envoy: str) -> int:
    """Return 0 if each proxy that is here lets everything through."""
    with tempfile.TemporaryDirectory() as folder:
        flags = (
            f"--api-key=tenant:{KEY}",
            f"--max-requests-per-tenant={LIMIT}",
            "--drain-timeout=300",
            "--log-level=warning",
        )
        with pagewire_up(Path(folder) / "log", *flags) as house:
            house.wait_until_ready()
            check(house, envoy, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
