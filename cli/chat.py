"""`pagewire chat`: talks to a running server over gRPC."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from cli.conversation import Conversation, Options
from cli.flags import Flag, Group, read_groups
from cli.keys import CLIENT_KEY
from cli.tls import CLIENT_TLS, client_credentials
from cli.translate import GRPC_TARGET
from cli.values import filled, integer, number

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from pagewire import PagewireError

GROUPS = (
    Group(
        "chat",
        (
            GRPC_TARGET,
            CLIENT_KEY,
            *CLIENT_TLS,
            Flag(name="system", field="system", help="A system message to begin with.", parse=filled),
            Flag(
                name="max-tokens",
                field="max_tokens",
                help="Longest answer.",
                parse=integer(1),
                metavar="N",
                default="what the context leaves",
            ),
            Flag(
                name="temperature",
                field="temperature",
                help="0 always takes the likeliest word.",
                parse=number(0, 2),
                metavar="T",
                default="the model's own",
            ),
            Flag(
                name="stats",
                field="stats",
                help="Prints time to first token and tokens per second.",
                switch=True,
                default="off",
            ),
        ),
    ),
)


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Answer one message or hold a conversation, and return the exit code.

    Raises:
        UsageError: a flag or variable cannot be used.
    """
    values = read_groups(GROUPS, arguments, environ)
    from pagewire import Client, PagewireError

    options: Options = {}
    if isinstance(max_tokens := values.get("max_tokens"), int):
        options["max_tokens"] = max_tokens
    if isinstance(temperature := values.get("temperature"), float):
        options["temperature"] = temperature
    system = values.get("system")
    target, api_key = str(values.get("grpc_target", GRPC_TARGET.default)), values.get("api_key")
    credentials, stats = client_credentials(values), bool(values.get("stats"))
    with Client(target, api_key=None if api_key is None else str(api_key), credentials=credentials) as client:
        conversation = Conversation(client, None if system is None else str(system), options)
        try:
            if arguments.message is not None:
                _answer(conversation, arguments.message, stats=stats)
            elif sys.stdin.isatty():
                _talk(conversation, stats=stats)
            else:
                _answer_lines(conversation, stats=stats)
        except PagewireError as error:
            _show_error(error)
            return 1
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return 130
    return 0


def _talk(conversation: Conversation, *, stats: bool) -> None:
    """Hold a conversation at a terminal. An answer that fails, or that Ctrl-C stops, ends nothing else."""
    from pagewire import PagewireError

    with suppress(ImportError):  # where there is one, `input` has keys to edit a line
        import readline  # noqa: F401
    print("Type a message; Ctrl-C stops an answer, Ctrl-D ends.", file=sys.stderr)
    with suppress(EOFError):
        while True:
            text = input("> ")
            if not text.strip():
                continue
            try:
                _answer(conversation, text, stats=stats)
            except PagewireError as error:
                _show_error(error)
            except KeyboardInterrupt:
                print(file=sys.stderr)


def _answer_lines(conversation: Conversation, *, stats: bool) -> None:
    """Take each line of standard input for a message."""
    for line in sys.stdin:
        if line.strip():
            _answer(conversation, line.rstrip("\n"), stats=stats)


def _answer(conversation: Conversation, text: str, *, stats: bool) -> None:
    figures = conversation.say(text)
    if stats:
        print(figures, file=sys.stderr)


def _show_error(error: PagewireError) -> None:
    print(f"pagewire chat: {error.message}", file=sys.stderr)
