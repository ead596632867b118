"""The public listener as several processes, each of which speaks gRPC for the server."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from server.front_link import FrontLink
from server.listeners import PortError

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    import grpc

    from server.front_call import Handler
    from server.front_messages import FrontConfig
    from server.gate import Gate

RESTART_DELAY_S = 1.0

logger = logging.getLogger(__name__)


class Fronts:
    """Processes that share a port. Has what is used of `grpc.aio.Server`."""

    def __init__(
        self,
        handlers: Sequence[grpc.GenericRpcHandler],
        gate: Gate,
        config: FrontConfig,
        reserved: socket.socket,
        count: int,
    ) -> None:
        """Prepare them; `start` starts them.

        Args:
            handlers: serve the calls, here.
            gate: lets them in.
            config: says where to listen.
            reserved: holds the port while no front does.
            count: of processes.
        """
        self._handlers = handlers
        self._gate = gate
        self._config = config
        self._reserved = reserved
        self._count = count
        self._links: dict[int, FrontLink] = {}
        self._keepers: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the processes, and wait until all listen.

        Raises:
            PortError: one cannot listen.
        """
        await asyncio.gather(*map(self._start_front, range(self._count)))
        self._keepers = [asyncio.create_task(self._keep(place)) for place in range(self._count)]
        logger.info("processes that speak gRPC: %d", self._count)

    async def stop(self, grace_s: float) -> None:
        """End the processes; calls may go on for `grace_s`."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(link.stop(grace_s) for link in self._links.values()))
        self._reserved.close()

    async def _start_front(self, place: int) -> None:
        link = self._links[place] = FrontLink(self._find)
        await link.start(self._config)

    async def _keep(self, place: int) -> None:
        """Start a process again whenever it has ended. Meanwhile the others take its connections."""
        while True:
            exit_code = await self._links[place].ended()
            logger.error(
                "a front process ended with exit code %s; starting it again in %g s",
                exit_code, RESTART_DELAY_S,
            )  # fmt: skip
            await self._start_again(place)

    async def _start_again(self, place: int) -> None:
        while True:
            await asyncio.sleep(RESTART_DELAY_S)
            try:
                return await self._start_front(place)
            except PortError as error:
                logger.error("%s", error)

    async def _find(self, details: grpc.HandlerCallDetails) -> Handler | None:
        return await self._gate.intercept_service(self._find_handler, details)

    async def _find_handler(self, details: grpc.HandlerCallDetails) -> Handler | None:
        for handler in self._handlers:
            if (method := handler.service(details)) is not None:
                return method
        return None
