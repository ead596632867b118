"""`pagewire serve`: the gRPC server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cli.descriptors import raise_descriptor_limit
from cli.flags import Flag, Group, UsageError, read_groups
from cli.keys import SERVER_KEYS
from cli.model_flags import DEFAULT_MAX_LORAS, ENGINE, LORA, MODEL
from cli.process import DRAIN_TIMEOUT, LOG_FORMAT, LOG_LEVEL, set_up_logging
from cli.tenants import TENANT_FLAGS, tenants
from cli.tls import GRPC_TLS, certificate_files
from cli.traces import TRACES_ENDPOINT
from cli.values import filled, integer, number
from cli.vllm_flags import tell_vllm_flags
from engine.config import EngineConfig
from server.config import ServerConfig

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

HOST = Flag(
    name="host",
    field="host",
    help="Address to listen on for gRPC.",
    parse=filled,
    metavar="ADDRESS",
    default="127.0.0.1",
)
PORT = Flag(
    name="port",
    field="port",
    help="Port for gRPC; 0 takes a free one.",
    parse=integer(0, 65535),
    metavar="N",
    default="50051",
)
SERVING = Group(
    "serving",
    (
        HOST,
        PORT,
        Flag(
            name="grpc-front-count",
            field="grpc_front_count",
            help="Processes that speak gRPC for the server and share its port; 1: the server does.",
            parse=integer(1, 64),
            metavar="N",
            default="1",
        ),
        Flag(
            name="admin-host",
            field="admin_host",
            help="Address of AdminService.",
            parse=filled,
            metavar="ADDRESS",
            default="127.0.0.1",
        ),
        Flag(
            name="admin-port",
            field="admin_port",
            help="Port of AdminService; 0 takes a free one.",
            parse=integer(0, 65535),
            metavar="N",
            default="50052",
        ),
        Flag(
            name="enable-metrics",
            field="enable_metrics",
            help="Serves Prometheus metrics of the server and its engine.",
            switch=True,
            default="on",
        ),
        Flag(
            name="metrics-host",
            field="metrics_host",
            help="Address of the metrics.",
            parse=filled,
            metavar="ADDRESS",
            default="127.0.0.1",
        ),
        Flag(
            name="metrics-port",
            field="metrics_port",
            help="Port of the metrics; 0 takes a free one.",
            parse=integer(0, 65535),
            metavar="N",
            default="50053",
        ),
        Flag(
            name="enable-reflection",
            field="enable_reflection",
            help="Lets tools such as grpcurl list the services.",
            switch=True,
            default="off",
        ),
        Flag(
            name="max-logprobs",
            field="max_logprobs",
            help="Most alternatives that a request may ask for at a position.",
            parse=integer(0, 20),
            metavar="N",
            default="20",
        ),
        Flag(
            name="max-queued-requests",
            field="max_queued_requests",
            help="Waiting requests beyond which more are refused.",
            parse=integer(0),
            metavar="N",
            default="1024",
        ),
        Flag(
            name="queue-timeout",
            field="queue_timeout_s",
            help="How long requests wait for the engine that do not say so themselves, in seconds.",
            parse=number(0, above=True),
            metavar="SECONDS",
            default="no longer than their deadlines",
        ),
        Flag(
            name="max-message-bytes",
            field="max_message_bytes",
            help="Largest gRPC request.",
            parse=integer(1024, 2**31 - 1),
            metavar="BYTES",
            default="4M",
        ),
        DRAIN_TIMEOUT,
        LOG_LEVEL,
        LOG_FORMAT,
        TRACES_ENDPOINT,
    ),
)

TLS = Group("gRPC with TLS", GRPC_TLS)
GROUPS = (MODEL, ENGINE, LORA, SERVING, Group("keys", (*SERVER_KEYS, *TENANT_FLAGS)), TLS)


def to_config(values: Mapping[str, Any]) -> ServerConfig:
    """Return the config with these values, by field; `engine.` leads to the engine's."""
    own = {field: value for field, value in values.items() if field in ServerConfig.__struct_fields__}
    engine = {
        field.removeprefix("engine."): value for field, value in values.items() if field.startswith("engine.")
    }
    own["tls"] = certificate_files(values, "grpc_")
    own["tenants"] = tenants(values)
    own, max_loras = _lora_settings(values, own)
    return ServerConfig(**own, engine=EngineConfig(model_path="", max_loras=max_loras, **engine))


def _lora_settings(values: Mapping[str, Any], own: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the server's own settings with those of adapters, and the engine's number of slots."""
    modules = own.get("lora_modules", ())
    if not values.get("enable_lora", bool(modules)):
        if modules:
            raise UsageError("--lora-modules: expected --enable-lora beside it, got --no-enable-lora")
        return own, 0
    max_loras: int = values.get("max_loras", DEFAULT_MAX_LORAS)
    max_cpu_loras = own.get("max_cpu_loras", max(16, max_loras))
    if max_cpu_loras < max_loras:
        raise UsageError(
            f'--max-cpu-loras: expected at least --max-loras, which is {max_loras}, got "{max_cpu_loras}"'
        )
    return own | {"max_cpu_loras": max_cpu_loras}, max_loras


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Serve until a signal, and return the exit code.

    Raises:
        UsageError: a flag or variable cannot be used.
    """
    values = read_groups(GROUPS, arguments, environ)
    config = to_config(values)
    set_up_logging(values)
    tell_vllm_flags(arguments)
    raise_descriptor_limit()
    from server import app

    return app.run(config)
