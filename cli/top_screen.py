"""Asks a server for its figures again and again, and shows them."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import grpc
from rich.console import Console
from rich.live import Live

from cli.top_figures import Watch, frame
from pagewire.errors import from_rpc_error
from pagewire.v1 import admin_pb2, admin_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cli.top_figures import Figures

TIMEOUT_S = 5.0


def watch(
    address: str,
    credentials: grpc.ChannelCredentials | None,
    key: object,
    interval_s: float,
    *,
    once: bool,
    as_json: bool,
) -> int:
    """Show figures until Ctrl-C, or one frame of them, and return the exit code.

    Args:
        address: of AdminService.
        credentials: for TLS; None speaks without.
        key: the operator's; None shows none.
        interval_s: between frames.
        once: shows one frame alone, after an interval.
        as_json: prints frames as JSON.
    """
    metadata = () if key is None else (("authorization", f"Bearer {key}"),)
    channel = (
        grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials)
    )
    frames = _figures(channel, metadata, interval_s, once=once)
    try:
        if as_json:
            _print_json(frames)
        elif once or not sys.stdout.isatty():
            _print_frames(frames, address)
        else:
            _show_live(frames, address)
    except grpc.RpcError as error:
        print(f"pagewire top: {address}: {from_rpc_error(error).message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _figures(
    channel: grpc.Channel, metadata: Sequence[tuple[str, str]], interval_s: float, *, once: bool
) -> Iterator[Figures]:
    """Yield the server's figures from now on; with `once`, those after one interval alone."""
    figures_of = Watch()
    with channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)

        def ask() -> Figures:
            response = stub.GetStats(admin_pb2.GetStatsRequest(), timeout=TIMEOUT_S, metadata=tuple(metadata))
            return figures_of.take(response, time.monotonic())

        figures = ask()
        while not once:
            yield figures
            time.sleep(interval_s)
            figures = ask()
        time.sleep(interval_s)
        yield ask()


def _print_json(frames: Iterator[Figures]) -> None:
    for figures in frames:
        print(json.dumps(figures.as_dict()), flush=True)


def _print_frames(frames: Iterator[Figures], address: str) -> None:
    console = Console()
    for figures in frames:
        with console.capture() as drawn:
            console.print(frame(figures, address))
        print(drawn.get(), flush=True)


def _show_live(frames: Iterator[Figures], address: str) -> None:
    with Live(screen=True, auto_refresh=False) as live:
        for figures in frames:
            live.update(frame(figures, address), refresh=True)
