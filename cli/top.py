"""`pagewire top`: a running server's figures, in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.flags import Flag, Group, read_groups
from cli.keys import CLIENT_KEY
from cli.tls import CLIENT_TLS, client_credentials
from cli.values import number, target

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

ADMIN_TARGET = Flag(
    name="admin-target",
    field="admin_target",
    help="Where AdminService listens.",
    parse=target,
    metavar="HOST:PORT",
    default="127.0.0.1:50052",
)
ADMIN_KEY = Flag(
    name="admin-api-key",
    field="admin_api_key",
    help="The operator's key to show.",
    parse=CLIENT_KEY.parse,
    metavar="KEY",
    default="none",
    secret=True,
)
GROUPS = (
    Group(
        "top",
        (
            ADMIN_TARGET,
            ADMIN_KEY,
            *CLIENT_TLS,
            Flag(
                name="interval",
                field="interval_s",
                help="Seconds between frames.",
                parse=number(0, above=True),
                metavar="SECONDS",
                default="1",
            ),
            Flag(
                name="once",
                field="once",
                help="Watches for one interval, prints one frame and ends.",
                switch=True,
                default="off",
            ),
            Flag(
                name="json",
                field="json",
                help="Prints each frame as a line of JSON.",
                switch=True,
                default="off",
            ),
        ),
    ),
)


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Show figures until Ctrl-C, and return the exit code: 1 where the server does not answer.

    Raises:
        UsageError: a flag or variable cannot be used.
    """
    values = read_groups(GROUPS, arguments, environ)
    from cli.top_screen import watch

    interval_s = values.get("interval_s", 1.0)
    assert isinstance(interval_s, float)
    return watch(
        str(values.get("admin_target", ADMIN_TARGET.default)),
        client_credentials(values),
        values.get("admin_api_key"),
        interval_s,
        once=bool(values.get("once")),
        as_json=bool(values.get("json")),
    )
