"""Asks both doors for their health: `python tests/health_probe.py URL TARGET SECONDS`.

Prints a JSON object: for each door how long each answer took, in seconds; and how many were no good.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
import urllib.parse
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

PAUSE_S = 0.05


def ask(check: Callable[[], bool], until_s: float) -> dict[str, Any]:
    times: list[float] = []
    num_failed = 0
    while (began_s := time.monotonic()) < until_s:
        num_failed += not check()
        times.append(time.monotonic() - began_s)
        time.sleep(PAUSE_S)
    return {"times": times, "num_failed": num_failed}


def main(base_url: str, target: str, seconds: float) -> dict[str, Any]:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(base_url).netloc, timeout=30)

    def by_http() -> bool:
        connection.request("GET", "/health")
        response = connection.getresponse()
        response.read()
        return response.status == 200

    until_s = time.monotonic() + seconds
    results: dict[str, Any] = {}
    with grpc.insecure_channel(target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)

        def by_grpc() -> bool:
            response = stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
            return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

        thread = threading.Thread(target=lambda: results.update(grpc=ask(by_grpc, until_s)))
        thread.start()
        results["http"] = ask(by_http, until_s)
        thread.join()
    return results


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
