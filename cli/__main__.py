"""The `pagewire` command."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import TYPE_CHECKING

from rich_argparse import RawDescriptionRichHelpFormatter

from cli import bench, chat, doctor, health, serve, top, translate, up
from cli.flags import UsageError, add_groups, with_dashes
from cli.vllm_flags import add_vllm_flags

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

DESCRIPTION = "Serves language models over gRPC, and over HTTP to everyone who speaks OpenAI."
EPILOG = "Every flag has an environment variable, shown in brackets; the flag beats it."
COMMANDS: dict[str, tuple[ModuleType, str]] = {
    "up": (up, "Run the gRPC server and the HTTP translator together."),
    "serve": (serve, "Run the gRPC server."),
    "translate": (translate, "Run the HTTP translator in front of a gRPC server."),
    "chat": (chat, "Talk to a running server over gRPC."),
    "top": (top, "Watch a running server: requests, KV blocks, tokens per second."),
    "bench": (bench, "Measure a server: time to first token, time per token, tokens per second."),
    "doctor": (doctor, "Show what this machine can do, and what the engine makes of it."),
    "health": (health, "Say whether a server accepts requests: exit code 0 or 1."),
}
USAGE = {
    "up": "[MODEL] ",
    "serve": "[MODEL] ",
    "chat": "[MESSAGE] ",
    "doctor": "[MODEL] ",
    "bench": "{" + ",".join(bench.KINDS) + "} [MODEL] ",
}


class _Version(argparse.Action):
    """Prints the version. Looked up only when asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:  # noqa: A002
        super().__init__(option_strings, dest, nargs=0, help=help, default=argparse.SUPPRESS)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"pagewire {version('pagewire')}")
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="pagewire", description=DESCRIPTION, formatter_class=RawDescriptionRichHelpFormatter
    )
    parser.add_argument("--version", action=_Version, help="Print the version.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, help_text) in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=help_text,
            usage=f"pagewire {name} {USAGE.get(name, '')}[FLAG ...]",
            description=help_text,
            epilog=EPILOG,
            formatter_class=parser.formatter_class,
            allow_abbrev=False,
        )
        if name == "chat":
            command.add_argument("message", metavar="MESSAGE", nargs="?", help="Absent: a conversation.")
        if name == "bench":
            command.add_argument("kind", metavar="KIND", choices=bench.KINDS, help=bench.KIND_HELP)
        add_groups(command, module.GROUPS)
        if name in ("up", "serve", "translate"):
            add_vllm_flags(command)
    return parser


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run a command and return its exit code.

    It is 2 for what cannot be used, and as a shell has it for the signals SIGINT and SIGPIPE, which are
    exceptions in Python.
    """
    arguments = make_parser().parse_args(with_dashes(sys.argv[1:] if argv is None else argv))
    module, _ = COMMANDS[arguments.command]
    try:
        return int(module.run(arguments, os.environ if environ is None else environ))
    except UsageError as error:
        print(f"pagewire {arguments.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # Whoever read our output has gone. What is left of it would be written at the end, in vain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


if __name__ == "__main__":
    sys.exit(main())
