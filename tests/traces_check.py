"""Shows traces in Arize Phoenix, a real collector: `traces_check.py PHOENIX`, the path of its program.

Real requests go through both doors of a real server. Then Phoenix is asked what it has, by its API.
It hears nothing but this machine, and calls nobody.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from processes import free_ports, pagewire_up, wait_until

from pagewire import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

TIMEOUT_S = 300.0
MODEL = "smollm2-135m-instruct"
PHASES = {"queue", "prefill", "decode"}
DOORS = ("POST /v1/chat/completions", f"chat {MODEL}", f"text_completion {MODEL}")
NAMES = Counter((*DOORS, *PHASES, *PHASES))
CANARY = "a-canary-that-nobody-else-says"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

Span = dict[str, Any]


class Phoenix:
    """One that runs, by its HTTP API."""

    def __init__(self, port: int, otlp_port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self.otlp_endpoint = f"http://127.0.0.1:{otlp_port}"

    def is_up(self) -> bool:
        """Whether it answers."""
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self._url}/healthz", timeout=10):
            return True
        return False

    def spans(self) -> list[Span]:
        """All that it has."""
        url = f"{self._url}/v1/projects/default/spans?limit=1000"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=30) as found:
            spans: list[Span] = json.load(found)["data"]
            return spans
        return []


@contextlib.contextmanager
def collecting(program: str, folder: Path) -> Iterator[Phoenix]:
    """Run Phoenix on free ports, with its database in a folder."""
    port, otlp_port = free_ports(2)
    settings = {
        "PHOENIX_WORKING_DIR": str(folder),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(otlp_port),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [program, "serve"], env={**os.environ, **settings}, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            phoenix = Phoenix(port, otlp_port)
            wait_until(phoenix.is_up, f"Phoenix answers\n{(folder / 'log').read_text()}", TIMEOUT_S)
            yield phoenix
        finally:
            process.terminate()
            process.wait()


def ask(base_url: str, grpc_target: str) -> None:
    """Send a chat by HTTP, in a trace of its caller's, and a text by gRPC, which begins one."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": f"Say {CANARY}."}], "max_tokens": 8}
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
    httpx.post(f"{base_url}/v1/chat/completions", json=body, headers=headers, timeout=100).raise_for_status()
    with Client(grpc_target, timeout=100) as client:
        client.generate(f"{CANARY}, ", max_tokens=8)


def names(spans: list[Span]) -> list[str]:
    """Of these spans."""
    return [span["name"] for span in spans]


def check(spans: list[Span]) -> None:
    """See that each request is one trace, from the door to the phases in the engine."""
    named = {span["name"]: span for span in spans if span["name"] not in PHASES}
    http, chat, text = (named[name] for name in DOORS)
    assert http["context"]["trace_id"] == chat["context"]["trace_id"] == TRACE
    assert text["context"]["trace_id"] != TRACE
    assert (http["parent_id"], chat["parent_id"]) == (PARENT, http["context"]["span_id"])
    assert text["parent_id"] is None
    for call in (chat, text):
        below = [span for span in spans if span["parent_id"] == call["context"]["span_id"]]
        assert set(names(below)) == PHASES, below
        attributes = call["attributes"]
        assert attributes["gen_ai.provider.name"] == "pagewire", attributes
        assert attributes["gen_ai.usage.output_tokens"] == 8, attributes
    assert CANARY not in json.dumps(spans)


def main(program: str) -> int:
    """Return 0 where all is well."""
    with (
        tempfile.TemporaryDirectory() as folder,
        collecting(program, Path(folder)) as phoenix,
        pagewire_up(Path(folder) / "pagewire", f"--otlp-traces-endpoint={phoenix.otlp_endpoint}") as house,
    ):
        house.wait_until_ready()
        wait_until(lambda: httpx.get(f"{house.base_url}/health").is_success, "the translator answers", 100)
        ask(house.base_url, house.grpc_target)
        wait_until(lambda: Counter(names(phoenix.spans())) >= NAMES, "all spans have arrived", TIMEOUT_S)
        spans = phoenix.spans()
        check(spans)
    for span in sorted(spans, key=lambda span: str(span["start_time"])):
        context = span["context"]
        sys.stdout.write(f"{context['trace_id']} {context['span_id']} {span['parent_id']} {span['name']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
