"""`pagewire translate`: the HTTP translator in front of a gRPC server."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, Any

import msgspec

from cli.descriptors import raise_descriptor_limit
from cli.flags import Flag, Group, give_again, read_groups
from cli.keys import TRANSLATOR_KEYS
from cli.process import DRAIN_TIMEOUT, LOG_FORMAT, LOG_LEVEL, set_up_logging
from cli.supervisor import Supervisor
from cli.tls import CLIENT_TLS, HTTP_TLS, certificate_files, client_credentials, probe_context
from cli.traces import TRACES_ENDPOINT
from cli.values import filled, integer, json_list, number, origin, target
from cli.vllm_flags import tell_vllm_flags
from cli.workers import API_SERVER_COUNT, num_processes, place_of, translators
from gate.certificates import CertificateError
from translator.config import TranslatorConfig

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from gate.certificates import CertificateFiles

logger = logging.getLogger(__name__)

GRPC_TARGET = Flag(
    name="grpc-target",
    field="grpc_target",
    help="Where the gRPC server listens.",
    parse=target,
    metavar="HOST:PORT",
    default="127.0.0.1:50051",
)
HOST = Flag(
    name="host",
    field="host",
    help="Address to listen on for HTTP.",
    parse=filled,
    metavar="ADDRESS",
    default="127.0.0.1",
)
PORT = Flag(
    name="port",
    field="port",
    help="Port for HTTP; 0 takes a free one.",
    parse=integer(0, 65535),
    metavar="N",
    default="8000",
)
STATS_TARGET = Flag(
    name="stats-target",
    field="stats_target",
    help="Where AdminService listens, for the console's figures alone.",
    parse=target,
    metavar="HOST:PORT",
    default="the admin target",
)
HTTP = (
    Flag(
        name="admin-target",
        field="admin_target",
        help="Where AdminService listens; lets HTTP callers load and unload LoRA adapters.",
        parse=target,
        metavar="HOST:PORT",
        default="none",
    ),
    STATS_TARGET,
    Flag(
        name="max-body-bytes",
        field="max_body_bytes",
        help="Largest request body.",
        parse=integer(1024),
        metavar="BYTES",
        default="4M",
    ),
    Flag(
        name="header-timeout",
        field="header_timeout_s",
        help="A connection is closed whose request's headers take longer, in seconds.",
        parse=number(0, above=True),
        metavar="SECONDS",
        default="10",
    ),
    Flag(
        name="body-timeout",
        field="body_timeout_s",
        help="A request is refused whose body takes longer, in seconds.",
        parse=number(0, above=True),
        metavar="SECONDS",
        default="30",
    ),
    Flag(
        name="keep-alive-timeout",
        field="keep_alive_s",
        help="An idle connection is closed after this many seconds.",
        parse=integer(1),
        metavar="SECONDS",
        default="65",
    ),
    Flag(
        name="request-timeout",
        field="request_timeout_s",
        help="Deadline of a request, in seconds.",
        parse=number(0, above=True),
        metavar="SECONDS",
        default="600",
    ),
    Flag(
        name="sse-keep-alive",
        aliases=("--sse-keep-alive-interval",),
        field="sse_keep_alive_s",
        help="A silent stream gets a comment after this many seconds; 0 sends none.",
        parse=number(0),
        metavar="SECONDS",
        default="15",
    ),
    Flag(
        name="enable-force-include-usage",
        field="force_include_usage",
        help="Every chunk of a stream holds the usage so far, asked for or not.",
        switch=True,
        default="off",
    ),
    Flag(
        name="open-metrics",
        field="open_metrics",
        help="/metrics needs no key.",
        switch=True,
        default="off",
    ),
    Flag(
        name="allowed-origins",
        field="allowed_origins",
        help="Origins that browsers may call from, or a JSON list of them; * is all.",
        parse=origin,
        split=json_list,
        metavar="ORIGIN",
        many=True,
        default="none",
    ),
    Flag(
        name="response-store-size",
        field="response_store_size",
        help="Finished responses of the Responses API kept in memory for later turns; 0 keeps none.",
        parse=integer(0),
        metavar="N",
        default="1024",
    ),
    Flag(
        name="response-store-bytes",
        field="response_store_bytes",
        help="What they may take together.",
        parse=integer(1024),
        metavar="BYTES",
        default="64M",
    ),
    Flag(
        name="response-store-age",
        field="response_store_age_s",
        help="How long one is kept after its last use, in seconds.",
        parse=number(0, above=True),
        metavar="SECONDS",
        default="86400",
    ),
)

GROUPS = (
    Group("gRPC", (GRPC_TARGET,)),
    Group("HTTP", (HOST, PORT, API_SERVER_COUNT, *HTTP, DRAIN_TIMEOUT)),
    Group("keys", TRANSLATOR_KEYS),
    Group("HTTP with TLS", HTTP_TLS),
    Group("gRPC with TLS", CLIENT_TLS),
    Group("process", (LOG_LEVEL, LOG_FORMAT, TRACES_ENDPOINT)),
)


def to_config(values: Mapping[str, Any]) -> TranslatorConfig:
    """Return the config with these values, by field."""
    own = {field: value for field, value in values.items() if field in TranslatorConfig.__struct_fields__}
    client_credentials(values)
    return TranslatorConfig(**own, tls=certificate_files(values, ""))


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Translate until a signal, and return the exit code.

    Raises:
        UsageError: a flag or variable cannot be used.
    """
    values = read_groups(GROUPS, arguments, environ)
    config, place = to_config(values), place_of(environ)
    worker = None if place is None else place.worker
    set_up_logging(values, None if worker is None else worker.index)
    tell_vllm_flags(arguments)
    raise_descriptor_limit()
    count = num_processes(values)
    if place is None and count > 1:
        return _supervise(config, count, arguments)
    from translator import process

    if place is None:
        return process.run(config)
    return process.run(msgspec.structs.replace(config, worker=worker), socket.socket(fileno=place.listener))


def _supervise(config: TranslatorConfig, count: int, arguments: argparse.Namespace) -> int:
    """Run several processes until a signal, and start again those that die."""
    flags = give_again((flag for group in GROUPS for flag in group.flags), arguments)
    with translators(config, count, flags, {}) as http:
        supervisor = Supervisor(
            http.children,
            probe=lambda: _is_live(http.base_url, config.tls) or None,
            on_ready=lambda _, seconds: logger.info("answering after %.1f s", seconds),
        )
        return supervisor.run()


def _is_live(base_url: str, tls: CertificateFiles | None) -> bool:
    from cli.health import is_live

    try:
        return is_live(base_url, probe_context(tls))
    except CertificateError:
        return False
