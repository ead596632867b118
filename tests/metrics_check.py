"""Watches a real server with a real Prometheus, as an operator does: `metrics_check.py`.

Both processes are scraped while they serve. promtool reads their metrics, and checks and tests the alarms;
each query of the dashboard must give figures, each alarm must be evaluated, and the spans of a request must
arrive at a collector. Without prometheus and promtool on the path nothing is checked, and it says so.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from otlp_collector import Collector, collecting
from processes import House, free_ports, pagewire_up, wait_until

from pagewire import Client
from server.dashboard import ROWS

if TYPE_CHECKING:
    from collections.abc import Iterator

ALERTS = Path(__file__).parents[1] / "deploy" / "prometheus" / "alerts.yaml"
TEST_OF_ALERTS = Path(__file__).parent / "prometheus" / "alerts_test.yaml"
TIMEOUT_S = 120.0
# What vLLM chose to call things, and we with it.
_ACCEPTED = re.compile(
    r"metric names should not contain ':'|vllm:iteration_tokens_total non-counter metrics should not have"
)
# A GPU alone has it, and this runs on a CPU.
_OF_GPUS = "pagewire:engine_device_busy_seconds_total"
_VARIABLES = {"$model": ".*", "$instance": ".*", "$__rate_interval": "20s"}
_TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Prometheus:
    """One that runs, by its HTTP API."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def is_up(self) -> bool:
        """Whether it answers."""
        with contextlib.suppress(OSError):
            return bool(_read(f"{self._url}/-/ready"))
        return False

    def ask(self, query: str) -> list[float]:
        """The values of a query now; those that are not numbers are left out."""
        found = self._get(f"query?{urllib.parse.urlencode({'query': query})}")
        values = (float(series["value"][1]) for series in found["result"])
        return [value for value in values if not math.isnan(value)]

    def rules(self) -> dict[str, str]:
        """How the evaluation of each alarm went."""
        (group,) = self._get("rules")["groups"]
        return {rule["name"]: rule["health"] for rule in group["rules"]}

    def _get(self, path: str) -> Any:
        return json.loads(_read(f"{self._url}/api/v1/{path}"))["data"]


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return str(response.read().decode())


@contextlib.contextmanager
def watching(targets: dict[str, str], folder: Path) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes `targets`, by job, each second."""
    (port,) = free_ports(1)
    jobs = [{"job_name": job, "static_configs": [{"targets": [at]}]} for job, at in targets.items()]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": jobs,
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    process = subprocess.Popen(command)
    try:
        prometheus = Prometheus(port)
        wait_until(prometheus.is_up, "Prometheus answers", TIMEOUT_S)
        yield prometheus
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def busy(house: House) -> Iterator[None]:
    """Ask for this and that, well and badly, through both doors, all the time."""
    stop = threading.Event()
    thread = threading.Thread(target=_ask_on, args=(house, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _ask_on(house: House, stop: threading.Event) -> None:
    body = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Count to ten."}]}
    with httpx.Client(base_url=house.base_url, timeout=100) as http, Client(house.grpc_target) as client:
        while not stop.is_set():
            stream = body | {"max_tokens": 12, "stream": True}
            answer = http.post("/v1/chat/completions", json=stream, headers={"traceparent": _TRACEPARENT})
            answer.raise_for_status()
            http.post("/v1/chat/completions", json=body | {"model": "none"})
            client.generate("One, two, three,", max_tokens=12)
            with client.stream("Once upon a time", max_tokens=200) as events:
                next(iter(events))  # and leave


def check_text(url: str) -> None:
    """Let promtool read a process's metrics."""
    told = subprocess.run(
        ["promtool", "check", "metrics"], input=_read(url), capture_output=True, text=True, check=False
    )
    lines = [line for line in (told.stdout + told.stderr).splitlines() if line.strip()]
    objections = [line for line in lines if not _ACCEPTED.search(line)]
    assert told.returncode in (0, 3), told
    assert not objections, objections


def check_alarms() -> None:
    """Let promtool check the alarms, and test them."""
    subprocess.run(["promtool", "check", "rules", ALERTS], check=True)
    subprocess.run(["promtool", "test", "rules", TEST_OF_ALERTS], check=True)


def queries() -> dict[str, str]:
    """The dashboard's queries, as Grafana would send them for everything that is scraped."""
    found = {}
    for panels in ROWS.values():
        for panel in panels:
            for legend, query in panel.queries.items():
                for variable, value in _VARIABLES.items():
                    query = query.replace(variable, value)
                found[f"{panel.title}: {legend}"] = query
    return found


def check_dashboard(prometheus: Prometheus) -> None:
    """See that each query gives figures."""
    missing = {name: query for name, query in queries().items() if _OF_GPUS not in query}

    def all_answered() -> bool:
        for name, query in list(missing.items()):
            if prometheus.ask(query):
                del missing[name]
        return not missing

    try:
        wait_until(all_answered, "each panel has figures", TIMEOUT_S)
    except AssertionError as error:
        raise AssertionError(f"no figures: {missing}") from error


def check_trace(collector: Collector) -> None:
    """See that the spans of both processes and of the engine's phases are one trace."""
    trace_id = _TRACEPARENT.split("-")[1]
    wanted = {
        ("pagewire-translator", "POST /v1/chat/completions"),
        ("pagewire-server", "chat smollm2-135m-instruct"),
        *(("pagewire-server", phase) for phase in ("queue", "prefill", "decode")),
    }
    collector.wait_for(
        lambda spans: wanted <= {(span.service, span.name) for span in spans if span.trace_id == trace_id}
    )


def say(text: str) -> None:
    """Tell whoever runs this."""
    sys.stdout.write(f"{text}\n")


def main() -> int:
    """Return 0 where all is well."""
    missing = [tool for tool in ("prometheus", "promtool") if shutil.which(tool) is None]
    if missing:
        say(f"SKIPPED: the metrics are not checked, for there is no {' and no '.join(missing)}")
        return 0
    check_alarms()
    (metrics_port,) = free_ports(1)
    with (
        collecting() as collector,
        tempfile.TemporaryDirectory() as folder,
        pagewire_up(
            Path(folder) / "log",
            f"--metrics-port={metrics_port}",
            f"--otlp-traces-endpoint={collector.grpc_endpoint}",
        ) as house,
    ):
        house.wait_until_ready()
        server = f"127.0.0.1:{metrics_port}"
        translator = house.base_url.removeprefix("http://")
        wait_until(lambda: httpx.get(f"{house.base_url}/health").is_success, "the translator answers", 100)
        targets = {"pagewire-server": server, "pagewire-translator": translator}
        with watching(targets, Path(folder)) as prometheus, busy(house):
            check_dashboard(prometheus)
            wait_until(lambda: prometheus.ask("sum(up)") == [2.0], "both processes are scraped", TIMEOUT_S)
            wait_until(lambda: set(prometheus.rules().values()) == {"ok"}, "all alarms work", TIMEOUT_S)
            check_trace(collector)
            for target in targets.values():
                check_text(f"http://{target}/metrics")
            num_rules = len(prometheus.rules())
    say(f"{len(queries())} queries of the dashboard give figures, {num_rules} alarms work, a trace is whole")
    return 0


if __name__ == "__main__":
    sys.exit(main())
