"""`pagewire bench`: measures a server, a running one or one of its own."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from cli.flags import Flag, Group, UsageError, read_groups
from cli.health import SCHEMES, TARGET, target_or_url
from cli.keys import CLIENT_KEY
from cli.model_flags import ENGINE, MODEL
from cli.tls import CLIENT_TLS, client_credentials, https_context
from cli.values import choice, filled, integer, number
from cli.workload import PRESETS, Workload

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from cli.bench_report import Floor
    from cli.load import Service
    from cli.machine import Machine
    from cli.own_server import OwnServer
    from pagewire.v1 import models_pb2

KINDS = ("serve", "latency", "throughput")
KIND_HELP = "serve loads a running server; latency and throughput start one of their own, over gRPC."
_LOCAL = ("127.0.0.1:", "localhost:", "[::1]:", "http://127.0.0.1:", "http://localhost:", "http://[::1]:")


def lengths(text: str) -> tuple[int, int]:
    """Parse a length such as 512, or a range such as 100-1024."""
    low, _, high = text.partition("-")
    try:
        pair = integer(1)(low), integer(1)(high or low)
    except ValueError as error:
        raise ValueError("a number of tokens, or a range such as 100-1024") from error
    if pair[0] > pair[1]:
        raise ValueError("a range from the smaller to the larger number")
    return pair


WORKLOAD = Group(
    "workload",
    (
        Flag(
            name="workload",
            field="preset",
            help=f"A known one: {', '.join(PRESETS)}; or several.",
            parse=choice(tuple(PRESETS)),
            metavar="NAME",
            many=True,
        ),
        Flag(
            name="num-requests",
            field="num_requests",
            help="Requests in all.",
            parse=integer(1),
            metavar="N",
            default="128; latency: five times --concurrency",
        ),
        Flag(
            name="concurrency",
            field="concurrency",
            help="Requests that are open at once.",
            parse=integer(1),
            metavar="N",
            default="32; latency: 1; throughput: all",
        ),
        Flag(
            name="input-len",
            field="prompt_lens",
            help="Tokens of a prompt: 512, or 100-1024.",
            parse=lengths,
            metavar="N",
            default="512",
        ),
        Flag(
            name="output-len",
            field="output_lens",
            help="Tokens of an output: 256, or 100-1024.",
            parse=lengths,
            metavar="N",
            default="256",
        ),
        Flag(
            name="prefix-len",
            field="prefix_len",
            help="Tokens that all prompts begin with.",
            parse=integer(0),
            metavar="N",
            default="0",
        ),
        Flag(
            name="request-rate",
            field="request_rate",
            help="Requests a second, at random times.",
            parse=number(0),
            metavar="R",
            default="as --concurrency allows",
        ),
        Flag(
            name="workload-seed",
            field="seed",
            help="Of the prompts.",
            parse=integer(0),
            metavar="N",
            default="0",
        ),
        Flag(
            name="temperature",
            field="temperature",
            help="Of the requests.",
            parse=number(0, 2),
            metavar="T",
            default="0",
        ),
    ),
)
BENCH = Group(
    "bench",
    (
        replace(
            TARGET,
            help="With serve: a gRPC server as HOST:PORT, or an OpenAI server as http://HOST:PORT or https://HOST:PORT.",
            parse=target_or_url,
        ),
        CLIENT_KEY,
        *CLIENT_TLS,
        Flag(
            name="bench-model",
            field="bench_model",
            help="With serve: the model's name.",
            parse=filled,
            metavar="NAME",
            default="the server's",
        ),
        Flag(
            name="vocab-size",
            field="vocab_size",
            help="Prompts are random token ids below this.",
            parse=integer(2),
            metavar="N",
            default="the model's; over HTTP 8192",
        ),
        Flag(
            name="num-processes",
            field="num_processes",
            help="Processes that send.",
            parse=integer(1, 64),
            metavar="N",
            default="8, or the cores",
        ),
        Flag(
            name="output-json",
            field="output_json",
            help="Appends one JSON line a workload to this file.",
            parse=filled,
            metavar="FILE",
        ),
    ),
)
GROUPS = (WORKLOAD, BENCH, MODEL, ENGINE)
TLS_FIELDS = tuple(flag.field for flag in CLIENT_TLS)


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Measure, print a table for each workload, and return the exit code.

    Raises:
        UsageError: a flag or variable cannot be used.
    """
    values = read_groups(GROUPS, arguments, environ)
    kind = str(arguments.kind)
    workloads = workloads_of(kind, values)
    from cli.doors import DoorError
    from cli.own_server import OwnServerError, own_server
    from pagewire import PagewireError

    try:
        if kind == "serve":
            _measure(str(values.get("target", TARGET.default)), values, workloads)
        else:
            flags = [
                word for flag in (*MODEL.flags, *ENGINE.flags) for word in flag.to_argv(flag.given(arguments))
            ]
            own = {field: value for field, value in values.items() if field not in TLS_FIELDS}
            with own_server(["--log-level=warning", *flags]) as server:
                _measure(server.target, own, workloads, server)
    except (DoorError, OwnServerError, PagewireError) as error:
        print(f"pagewire bench: {error}", file=sys.stderr)
        return 1
    return 0


def workloads_of(kind: str, values: Mapping[str, Any]) -> dict[str, Workload]:
    """Return the workloads to run, by name.

    Raises:
        UsageError: a known workload is named and described too.
    """
    described = {field: value for field, value in values.items() if field in Workload.__dataclass_fields__}
    if "preset" in values:
        clash = sorted(field for field in described if field != "seed")
        if clash:
            raise UsageError(f"--workload: names all of its lengths and numbers; leave out {clash[0]}")
        return {name: replace(PRESETS[name], **described) for name in values["preset"]}
    if kind == "latency":
        described.setdefault("concurrency", 1)
        described.setdefault("num_requests", 5 * described["concurrency"])
    if kind == "throughput":
        described.setdefault("concurrency", described.get("num_requests", Workload.num_requests))
    return {kind: Workload(**described)}


def _measure(
    target: str, values: Mapping[str, Any], workloads: Mapping[str, Workload], own: OwnServer | None = None
) -> None:
    """Run the workloads. Of a server of our `own` it is told what steps cost it, too."""
    from cli import bench_report
    from cli.load import send_load
    from cli.step_costs import ask_stats, step_figures

    https_context(values)  # the processes that send could not say what is wrong with a file
    model = None if target.startswith(SCHEMES) else _describe_model(target, values)
    service = _service(target, model, values)
    machine = _machine(target, model)
    warm_up = Workload(num_requests=2, concurrency=1, prompt_lens=(64, 64), output_lens=(8, 8))
    send_load(service, warm_up, 1)
    for name, workload in workloads.items():
        before = None if own is None else ask_stats(own)
        result = send_load(service, workload, int(values.get("num_processes", _default_processes())))
        floor: Floor | None = None
        if model is not None and machine is not None and model.num_step_weights:
            floor = bench_report.floor_of(workload, model, machine)
        figures, bounds = bench_report.figures_of(result), bench_report.floor_figures(floor)
        if own is not None and before is not None:
            figures |= step_figures(before, ask_stats(own), result.wall_s)
        print(bench_report.table(name, figures, bounds), flush=True)
        if "output_json" in values:
            facts = {"workload": name, "target": target} | _facts(service, machine)
            with open(values["output_json"], "a", encoding="utf-8") as file:
                print(bench_report.json_line(facts, figures, bounds), file=file)


def _describe_model(target: str, values: Mapping[str, Any]) -> models_pb2.Model:
    from pagewire import Client

    name, credentials = values.get("bench_model", ""), client_credentials(values)
    with Client(target, api_key=values.get("api_key"), timeout=10.0, credentials=credentials) as client:
        models = client.models()
    for model in models:
        if name in ("", model.name):
            return model
    raise UsageError(f'--bench-model: expected one of {", ".join(m.name for m in models)}, got "{name}"')


def _service(target: str, model: models_pb2.Model | None, values: Mapping[str, Any]) -> Service:
    from cli.load import Service

    return Service(
        target=target,
        model=values.get("bench_model", model.name if model is not None else ""),
        vocab_size=int(values.get("vocab_size", model.vocab_size if model is not None else 8192)),
        temperature=float(values.get("temperature", 0.0)),
        api_key=values.get("api_key"),
        tls={field: values[field] for field in TLS_FIELDS if field in values},
    )


def _machine(target: str, model: models_pb2.Model | None) -> Machine | None:
    """Measure this machine if the server runs on it; a floor elsewhere is not known."""
    if model is None or not target.startswith(_LOCAL):
        return None
    from cli.machine import measure

    return measure(model.device)


def _default_processes() -> int:
    from os import cpu_count

    return min(8, cpu_count() or 1)


def _facts(service: Service, machine: Machine | None) -> dict[str, object]:
    facts: dict[str, object] = {"model": service.model, "python": platform.python_version()}
    if machine is not None:
        facts |= {
            "device": machine.name,
            "bandwidth_gb_s": round(machine.bandwidth / 1e9, 1),
            "matmul_tflop_s": round(machine.matmul_rate / 1e12, 2),
        }
    for package in ("pagewire", "torch", "triton", "grpcio"):
        try:
            facts[package] = version(package)
        except PackageNotFoundError:  # a bare checkout, or a translator's machine
            facts[package] = None
    return facts
