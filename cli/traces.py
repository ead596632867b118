"""The flag of OpenTelemetry's traces."""

from __future__ import annotations

from importlib.util import find_spec
from urllib.parse import urlsplit

from cli.flags import Flag

_SCHEMES = ("http", "https", "grpc")
_PACKAGES = (
    "opentelemetry.sdk.trace",
    "opentelemetry.exporter.otlp.proto.grpc",
    "opentelemetry.exporter.otlp.proto.http",
)


def collector(text: str) -> str:
    """Read where spans are sent, and look whether this installation can send any."""
    parts = urlsplit(text)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError("a URL such as http://localhost:4317")
    if not all(map(_is_installed, _PACKAGES)):
        raise ValueError("an installation with the extra otel, as by `deploy/install.sh VENV server,otel`")
    from watch.tracing import PROTOCOL_VARIABLES, PROTOCOLS, protocol

    if protocol() not in PROTOCOLS:
        raise ValueError(f"{PROTOCOL_VARIABLES[0]} to be one of {', '.join(PROTOCOLS)}, not {protocol()!r}")
    return text


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False  # nor are the packages around it


TRACES_ENDPOINT = Flag(
    name="otlp-traces-endpoint",
    field="otlp_traces_endpoint",
    help="An OpenTelemetry collector, which gets the spans of requests by OTLP; OTEL_* variables say more.",
    parse=collector,
    metavar="URL",
    default="none",
    more_variables=("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",),
)
