"""The routes that tools probe: /ping, /load and /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from prometheus_client import generate_latest
from starlette.responses import Response

from translator import process_metrics
from translator.requests import backend_of
from translator.sse import encode_json

if TYPE_CHECKING:
    from starlette.requests import Request

    from translator.peers import Peers
    from translator.response_shelf import ResponseShelf

LOAD = "load"
MEASURES = "measures"

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


async def load(request: Request) -> Response:
    """Tell how many generations are open, in all processes."""
    num_running = backend_of(request).num_running
    if (peers := _peers_of(request)) is not None:
        num_running += sum(int(told or 0) for told in (await peers.ask_all(LOAD, None)).values())
    body = encode_json({"server_load": num_running})
    return Response(body, headers={"cache-control": "no-store"}, media_type="application/json")


async def metrics(request: Request) -> Response:
    """Tell what was measured, in Prometheus' own text form, whatever form is preferred.

    Several processes are told apart by a label; one that does not answer is left out.

    prometheus_client writes colons as underscores in the other forms, and then no name is vLLM's.
    """
    registry = backend_of(request).metrics.registry
    if (peers := _peers_of(request)) is None:
        text = generate_latest(registry)
    else:
        answers = await peers.ask_all(MEASURES, None)
        measured = {index: process_metrics.decode(answer) for index, answer in answers.items() if answer}
        text = process_metrics.exposition(
            {**measured, peers.own_index: process_metrics.families_of(registry)}
        )
    return Response(text, headers={"content-type": METRICS_TYPE, "cache-control": "no-store"})


def _peers_of(request: Request) -> Peers | None:
    return cast("ResponseShelf", request.app.state.responses).peers
