"""The processes of a translator: they share one socket, and answer as one."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from cli.flags import Flag, UsageError
from cli.process import pagewire_command
from cli.supervisor import Child
from cli.values import integer
from cli.worker_folder import worker_folder
from engine.host import num_physical_cores
from translator.acceptor import ConnectionCounts
from translator.config import Worker
from translator.listener import BACKLOG, open_listener

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from translator.config import TranslatorConfig

API_SERVER_COUNT = Flag(
    name="api-server-count",
    aliases=("-asc",),
    field="api_server_count",
    help="Processes of the translator, which share its port.",
    parse=integer(1, 64),
    metavar="N",
    default="1, and on more than 7 cores a quarter of them, but at most 4",
)
_VARIABLE = "PAGEWIRE_TRANSLATOR_PLACE"
_MOST_BY_DEFAULT = 4
_CORES_PER_PROCESS = 4

logger = logging.getLogger(__name__)


class Place(msgspec.Struct, frozen=True):
    """What a process is told that somebody else has opened the port for."""

    listener: int
    """The descriptor of its socket."""
    worker: Worker | None
    """None: it is the only one."""


def place_of(environ: Mapping[str, str]) -> Place | None:
    """Return the place of this process, if it was given one."""
    told = environ.get(_VARIABLE)
    return None if told is None else msgspec.json.decode(told, type=Place)


def num_processes(values: Mapping[str, object]) -> int:
    """Return how many processes are to run, by the flag or by the machine."""
    given = values.get(API_SERVER_COUNT.field)
    return default_count(num_physical_cores()) if given is None else int(str(given))


def default_count(num_cores: int) -> int:
    """Return how many processes do well beside an engine and a server: several only where cores abound."""
    return max(1, min(_MOST_BY_DEFAULT, num_cores // _CORES_PER_PROCESS))


@dataclass(frozen=True, slots=True)
class Translators:
    """Processes that share a port, not started."""

    children: list[Child]
    base_url: str
    """By which this machine reaches them."""


@contextmanager
def translators(
    config: TranslatorConfig, count: int, flags: Sequence[str], secrets: Mapping[str, str]
) -> Iterator[Translators]:
    """Open the port, and describe the processes that will share it.

    The socket is this process's as well, so no connection is lost that waits for a process that dies.

    Args:
        config: says where to listen.
        count: of the processes.
        flags: those of `pagewire translate`.
        secrets: variables that go with them.

    Raises:
        UsageError: the address cannot be used.
    """
    with ExitStack() as stack:
        try:
            listener = stack.enter_context(open_listener(config.host, config.port))
        except OSError as error:
            raise UsageError(
                f"--port: cannot listen on {config.host} port {config.port}: {error.strerror or error}"
            ) from error
        listener.listen(BACKLOG)
        host, port = listener.getsockname()[:2]
        scheme = "http" if config.tls is None else "https"
        logger.info(
            "listening on %s://%s:%d, model server at %s; processes: %d",
            scheme, host, port, config.grpc_target, count,
        )  # fmt: skip
        workers: list[Worker | None] = [None]
        descriptors = [listener.fileno()]
        if count > 1:
            folder, lock = stack.enter_context(worker_folder())
            descriptors.append(lock)
            workers = [Worker(index, count, folder) for index in range(count)]
            ConnectionCounts.make(Worker(0, count, folder).connections_file, count)
        yield Translators(
            [_child(worker, descriptors, flags, secrets) for worker in workers],
            f"{scheme}://{reachable(config.host)}:{port}",
        )


def reachable(host: str) -> str:
    """Return the address by which a listener on this one can be called from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]", "[::]": "[::1]", "": "127.0.0.1"}.get(host, host)


def _child(
    worker: Worker | None, descriptors: Sequence[int], flags: Sequence[str], secrets: Mapping[str, str]
) -> Child:
    """Describe one process. The first descriptor is its listener's."""
    name = "pagewire translate" if worker is None else f"pagewire translate, process {worker.index},"
    place = msgspec.json.encode(Place(descriptors[0], worker)).decode()
    command = pagewire_command("translate", flags)
    return Child(name, command, {**secrets, _VARIABLE: place}, descriptors=descriptors)
