"""Writes the Grafana dashboard: `python -m server.dashboard > deploy/grafana/pagewire.json`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# The translator has series of the same names, as its clients see them; it has no label `engine`, nor `code`.
_MODEL = '{engine!="",model_name=~"$model",instance=~"$instance"}'
_PROCESS = '{instance=~"$instance"}'
_CALLS = '{code!="",instance=~"$instance"}'
_PANELS_IN_A_ROW = 3
_WIDTH, _HEIGHT = 24 // _PANELS_IN_A_ROW, 8


@dataclass(frozen=True)
class Panel:
    """One graph."""

    title: str
    unit: str
    """Grafana's name of it."""
    queries: dict[str, str]
    """PromQL by legend."""


def _rate(name: str, by: str = "", labels: str = _MODEL) -> str:
    total = f"sum{f' by ({by}) ' if by else ''}"
    return f"{total}(rate({name}{labels}[$__rate_interval]))"


def _with(label: str, value: str) -> str:
    return f'{_MODEL[:-1]},{label}="{value}"}}'


def _quantiles(name: str) -> dict[str, str]:
    buckets = f"sum by (le) (rate({name}_bucket{_MODEL}[$__rate_interval]))"
    return {f"p{quantile}": f"histogram_quantile({quantile / 100}, {buckets})" for quantile in (50, 90, 99)}


ROWS: dict[str, tuple[Panel, ...]] = {
    "Load": (
        Panel(
            "Requests",
            "short",
            {
                "running": f"sum(vllm:num_requests_running{_MODEL})",
                "waiting": f"sum(vllm:num_requests_waiting{_MODEL})",
            },
        ),
        Panel(
            "Tokens",
            "short",
            {
                "generated/s": _rate("vllm:generation_tokens_total"),
                "prompt/s": _rate("vllm:prompt_tokens_total"),
            },
        ),
        Panel(
            "Ends",
            "reqps",
            {
                "{{finished_reason}}": _rate("vllm:request_success_total", "finished_reason"),
                "{{code}} {{reason}}": _rate("pagewire:request_failures_total", "code, reason", _CALLS),
            },
        ),
    ),
    "Latency": (
        Panel("Time to first token", "s", _quantiles("vllm:time_to_first_token_seconds")),
        Panel("Between tokens", "s", _quantiles("vllm:inter_token_latency_seconds")),
        Panel("Time per output token", "s", _quantiles("vllm:request_time_per_output_token_seconds")),
        Panel("Whole request", "s", _quantiles("vllm:e2e_request_latency_seconds")),
        Panel("Queue", "s", _quantiles("vllm:request_queue_time_seconds")),
        Panel("Prompt tokens", "short", _quantiles("vllm:request_prompt_tokens")),
        Panel("Generated tokens", "short", _quantiles("vllm:request_generation_tokens")),
    ),
    "Engine": (
        Panel("Tokens in a step", "short", _quantiles("vllm:iteration_tokens_total")),
        Panel(
            "Where the engine's time goes",
            "percentunit",
            {"{{part}}": _rate("pagewire:engine_step_seconds_total", "part")},
        ),
        Panel(
            "Work of the host for a step",
            "s",
            {
                "mean": _rate("pagewire:engine_step_seconds_total", labels=_with("part", "host"))
                + f" / {_rate('pagewire:engine_steps_total')}"
            },
        ),
        Panel(
            "GPU without a step",
            "percentunit",
            {
                "{{instance}}": "1 - sum by (instance)"
                f" (rate(pagewire:engine_device_busy_seconds_total{_MODEL}[$__rate_interval]))"
            },
        ),
    ),
    "What goes wrong": (
        Panel(
            "Refused",
            "reqps",
            {
                "{{reason}}": _rate("vllm:admission_rejections_total", "reason"),
                "key {{reason}} at {{listener}}": _rate(
                    "pagewire:auth_failures_total", "listener, reason", _PROCESS
                ),
            },
        ),
        Panel(
            "Ended early",
            "reqps",
            {
                "{{cause}}": _rate("pagewire:aborts_total", "cause"),
                "corrupted": _rate("vllm:corrupted_requests_total"),
            },
        ),
        Panel(
            "Late",
            "s",
            {
                "event loop {{job}} {{instance}}": f"pagewire:event_loop_lag_seconds{_PROCESS}",
                "seconds since a step": f"max(pagewire:engine_last_step_age_seconds{_PROCESS})",
            },
        ),
    ),
    "KV cache": (
        Panel("Share in use", "percentunit", {"owned": f"avg(vllm:kv_cache_usage_perc{_MODEL})"}),
        Panel("Blocks", "short", {"{{state}}": f"sum by (state) (pagewire:kv_blocks{_MODEL})"}),
        Panel(
            "Prefix hits",
            "percentunit",
            {
                "hit rate": f"{_rate('vllm:prefix_cache_hits_total')}"
                f" / {_rate('vllm:prefix_cache_queries_total')}"
            },
        ),
        Panel("Preemptions", "ops", {"preemptions/s": _rate("vllm:num_preemptions_total")}),
    ),
    "Health": (
        Panel(
            "Ready, restarts",
            "short",
            {
                "ready {{instance}}": f"pagewire:ready{_PROCESS}",
                "restarts {{instance}}, {{reason}}": (
                    f"increase(pagewire:engine_restarts_total{_PROCESS}[1h])"
                ),
            },
        ),
        Panel(
            "Engine",
            "short",
            {
                "steps/s": _rate("pagewire:engine_steps_total"),
                "unread streams": f"sum(pagewire:stream_write_stalled{_PROCESS})",
                "grammars compiling": f"sum(pagewire:live_grammar_compilations{_PROCESS})",
            },
        ),
        Panel(
            "Memory of the server",
            "bytes",
            {"{{instance}}": f"process_resident_memory_bytes{_PROCESS} and on (instance) pagewire:ready"},
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(_heading(title, len(panels) + 1, y))
        y += 1
        for index, panel in enumerate(row):
            line, column = divmod(index, _PANELS_IN_A_ROW)
            panels.append(_graph(panel, len(panels) + 1, column * _WIDTH, y + line * _HEIGHT))
        y += -(-len(row) // _PANELS_IN_A_ROW) * _HEIGHT
    return {
        "uid": "pagewire",
        "title": "Pagewire",
        "tags": ["pagewire", "llm"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _variables() -> list[dict[str, Any]]:
    queries = {
        "model": "label_values(vllm:num_requests_running, model_name)",
        "instance": "label_values(pagewire:ready, instance)",
    }
    chosen = {
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus"},
        *(
            {"name": name, "type": "query", "datasource": _DATASOURCE, "query": query, "refresh": 2} | chosen
            for name, query in queries.items()
        ),
    ]


def _heading(title: str, number: int, y: int) -> dict[str, Any]:
    place = {"x": 0, "y": y, "w": 24, "h": 1}
    return {"id": number, "type": "row", "title": title, "gridPos": place, "collapsed": False, "panels": []}


def _graph(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": query, "legendFormat": legend, "datasource": _DATASOURCE}
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def page() -> str:
    """Return the dashboard's file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
