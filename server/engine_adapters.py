"""What the server knows of the engine's LoRA adapters, so that one that is started again gets them again."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from engine.errors import AdapterError
from engine.messages import AdapterLoaded, LoadAdapter, UnloadAdapter
from server.engine import EngineUnavailableError

if TYPE_CHECKING:
    from engine.messages import AdapterRefused
    from server.engine_link import EngineLink

logger = logging.getLogger(__name__)


class EngineAdapters:
    """The adapters of one engine, in whichever process it runs."""

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}
        self._replies: dict[int, asyncio.Future[int]] = {}
        self._returning: set[int] = set()

    def __contains__(self, adapter: int) -> bool:
        """Whether the adapter is in the engine, or will be when that is ready."""
        return adapter in self._paths

    @property
    def are_complete(self) -> bool:
        """Whether the running process has them all."""
        return not self._returning

    async def load(self, link: EngineLink, adapter: int, path: str) -> int:
        """Load an adapter, and return its rank.

        Raises:
            AdapterError: the engine refuses it.
            EngineUnavailableError: the engine was lost meanwhile.
        """
        reply: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._replies[adapter] = reply
        link.send(LoadAdapter(adapter, path))
        try:
            rank = await reply
        finally:
            del self._replies[adapter]
        self._paths[adapter] = path
        return rank

    def unload(self, link: EngineLink | None, adapter: int) -> None:
        """Forget an adapter."""
        if self._paths.pop(adapter, None) is not None and link is not None:
            link.send(UnloadAdapter(adapter))

    def bring_back(self, link: EngineLink) -> None:
        """Load all adapters into a new process."""
        self._returning = set(self._paths)
        for adapter, path in self._paths.items():
            link.send(LoadAdapter(adapter, path))

    def take(self, reply: AdapterLoaded | AdapterRefused) -> bool:
        """Take the engine's answer to a load. Return whether it was the last of those that came back."""
        adapter = reply.adapter
        waiting = self._replies.get(adapter)
        if adapter in self._returning:
            self._returning.discard(adapter)
            if not isinstance(reply, AdapterLoaded):
                logger.error("the adapter at %s is lost: %s", self._paths.pop(adapter), reply.message)
            return not self._returning
        if waiting is not None and not waiting.done():
            if isinstance(reply, AdapterLoaded):
                waiting.set_result(reply.rank)
            else:
                waiting.set_exception(AdapterError(reply.message))
        return False

    def lose(self, reason: str) -> None:
        """The process has gone: fail the loads that it has not answered."""
        self._returning = set()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(EngineUnavailableError(reason))
