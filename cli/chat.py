"""`pagewire chat`: talks to a running server over gRPC."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TypedDict

from cli.flags import Flag, Group, read_groups
from cli.keys import CLIENT_KEY
from cli.tls import CLIENT_TLS, client_credentials
from cli.translate import GRPC_TARGET
from cli.values import filled, integer, number

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from pagewire import Client

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


class _Options(TypedDict, total=False):
    max_tokens: int
    temperature: float


class Conversation:
    """The messages so far, and how to ask for the next."""

    def __init__(self, client: Client, system: str | None, options: _Options) -> None:
        self._client = client
        self._options = options
        self._messages: list[Mapping[str, object]] = []
        if system is not None:
            self._messages.append({"role": "system", "content": system})

    def say(self, text: str) -> str:
        """Print the answer as it comes, and return a line of figures about it.

        An answer that is broken off by an error is forgotten, with its question.

        Raises:
            PagewireError: the call failed.
        """
        messages: list[Mapping[str, object]] = [*self._messages, {"role": "user", "content": text}]
        start = time.monotonic()
        first = start
        pieces: list[str] = []
        with self._client.stream(messages=messages, **self._options) as stream:
            for piece in stream.texts():
                if not pieces:
                    first = time.monotonic()
                pieces.append(piece)
                print(piece, end="", flush=True)
        print(flush=True)
        self._messages = [*messages, {"role": "assistant", "content": "".join(pieces)}]
        assert stream.finished is not None
        num_tokens = stream.finished.usage.num_completion_tokens
        rate = (num_tokens - 1) / max(time.monotonic() - first, 1e-9)
        return f"time to first token {first - start:.3f} s, {num_tokens} tokens, {rate:.1f} tokens/s"


def run(arguments: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Answer one message or hold a conversation, and return the exit code.

    Raises:
        UsageError: a flag or variable cannot be used.
    """
    values = read_groups(GROUPS, arguments, environ)
    from pagewire import Client, PagewireError

    options: _Options = {}
    if isinstance(max_tokens := values.get("max_tokens"), int):
        options["max_tokens"] = max_tokens
    if isinstance(temperature := values.get("temperature"), float):
        options["temperature"] = temperature
    system = values.get("system")
    target, api_key = str(values.get("grpc_target", GRPC_TARGET.default)), values.get("api_key")
    credentials = client_credentials(values)
    with Client(target, api_key=None if api_key is None else str(api_key), credentials=credentials) as client:
        conversation = Conversation(client, None if system is None else str(system), options)
        try:
            if arguments.message is None:
                return _converse(conversation, stats=bool(values.get("stats")))
            _print_stats(conversation.say(arguments.message), stats=bool(values.get("stats")))
        except PagewireError as error:
            print(f"pagewire chat: {error.message}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return 130
    return 0


def _converse(conversation: Conversation, *, stats: bool) -> int:
    """Read messages until the end of input."""
    if sys.stdin.isatty():
        print("Type a message; Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            text = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return 0
        if text.strip():
            _print_stats(conversation.say(text), stats=stats)


def _print_stats(figures: str, *, stats: bool) -> None:
    if stats:
        print(figures, file=sys.stderr)
