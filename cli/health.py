"""`pagewire health`: whether a server or translator accepts requests, or lives, for probes in containers."""

from __future__ import annotations

import http.client
import sys
import urllib.error
import urllib.parse
import urllib.request
from typing import TYPE_CHECKING, Any

from cli.flags import Flag, Group, read_groups
from cli.keys import CLIENT_KEY
from cli.tls import CLIENT_TLS, client_credentials, https_context
from cli.translate import GRPC_TARGET
from cli.values import target

if TYPE_CHECKING:
    import argparse
    import ssl
    from collections.abc import Mapping

TIMEOUT_S = 5.0
SCHEMES = ("http://", "https://")


def target_or_url(text: str) -> str:
    """Parse a gRPC target or the base URL of a translator."""
    try:
        return _base_url(text) if text.startswith(SCHEMES) else target(text)
    except ValueError as error:
        raise ValueError("HOST:PORT or unix:PATH, or http://HOST:PORT") from error


def _base_url(text: str) -> str:
    url = urllib.parse.urlsplit(text)
    if not url.hostname or url.port == 0:  # ValueError where it is no port at all
        raise ValueError("a host, and a port from 1 to 65535")
    return text.rstrip("/")


TARGET = Flag(
    name="target",
    field="target",
    help="A gRPC server as HOST:PORT, or a translator as http://HOST:PORT.",
    parse=target_or_url,
    metavar="TARGET",
    default=GRPC_TARGET.default,
)
LIVE = Flag(
    name="live",
    field="live",
    help="Ask whether the process is there, whatever the engine does; else, whether requests are accepted.",
    switch=True,
    default="off",
)
GROUPS = (Group("health", (TARGET, LIVE, CLIENT_KEY, *CLIENT_TLS)),)


def answers_requests(base_url: str, context: ssl.SSLContext | None = None) -> bool:
    """Ask a translator whether requests can be answered. `context` is for TLS; None: the machine's own."""
    return _fault_of(f"{base_url}/health/ready", context) is None


def is_live(base_url: str, context: ssl.SSLContext | None = None) -> bool:
    """Ask a translator whether it is there, whatever the model server does."""
    return _fault_of(f"{base_url}/health/live", context) is None


def _fault_of(url: str, context: ssl.SSLContext | None) -> str | None:
    """Return what is wrong with the answer, or why there is none; None where it is 200."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S, context=context) as response:
            return None if response.status == 200 else f"{url} answers with {response.status}"
    except urllib.error.HTTPError as error:
        with error:
            return f"{url} answers with {error.code}"
    except urllib.error.URLError as error:
        return f"cannot connect: {error.reason}"
    except (OSError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Return 0 if requests are accepted, or with `--live` if the process is there, else 1.

    Raises:
        UsageError: a flag or variable cannot be used.
    """
    values = read_groups(GROUPS, arguments, environ)
    address = str(values.get("target", TARGET.default))
    asked = "live" if values.get("live") else "ready"
    ask = _answers if address.startswith(SCHEMES) else _serves
    is_so = ask(address, asked, values)
    print(f"{address} is {asked if is_so else f'not {asked}'}", file=sys.stderr)
    return 0 if is_so else 1


def _answers(base_url: str, asked: str, values: Mapping[str, Any]) -> bool:
    fault = _fault_of(f"{base_url}/health/{asked}", https_context(values))
    if fault is not None:
        print(fault, file=sys.stderr)
    return fault is None


def _serves(address: str, asked: str, values: Mapping[str, Any]) -> bool:
    from pagewire import Client, PagewireError

    try:
        with Client(
            address,
            api_key=values.get("api_key"),
            timeout=TIMEOUT_S,
            credentials=client_credentials(values),
        ) as client:
            return client.is_live() if asked == "live" else client.is_ready()
    except PagewireError as error:
        print(f"{type(error).__name__}: {error.message}", file=sys.stderr)
        return False
