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
        self._held: set[int] = set()  # those that the running process has said that it has

    def __contains__(self, adapter: int) -> bool:
        """Whether the adapter is in the engine, or will be when that is ready."""
        return adapter in self._paths

    @property
    def are_complete(self) -> bool:
        """Whether the running process has them all."""
        return not self._returning

    async def load(self, link: EngineLink, adapter: int, path: str) -> int:
        """Load an adapter, and return its rank. If the caller leaves, the engine does not keep it.

        Raises:
            AdapterError: the engine refuses it.
            EngineUnavailableError: the engine was lost meanwhile.
        """
        reply: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._replies[adapter] = reply
        link.send(LoadAdapter(adapter, path))
        try:
            rank = await reply
        except asyncio.CancelledError:
            self.unload(link, adapter)  # it may have come in this very turn
            raise
        finally:
            del self._replies[adapter]
        self._paths[adapter] = path
        return rank

    def unload(self, link: EngineLink | None, adapter: int) -> None:
        """Forget an adapter. One that the process is still loading goes when that has ended."""
        self._paths.pop(adapter, None)
        if adapter in self._held and link is not None:
            self._held.discard(adapter)
            link.send(UnloadAdapter(adapter))

    def bring_back(self, link: EngineLink) -> None:
        """Load all adapters into a new process."""
        self._returning = set(self._paths)
        for adapter, path in self._paths.items():
            link.send(LoadAdapter(adapter, path))

    def take(self, link: EngineLink, reply: AdapterLoaded | AdapterRefused) -> bool:
        """Take the engine's answer to a load. Return whether it was the last of those that came back."""
        if isinstance(reply, AdapterLoaded):
            self._keep(link, reply)
        else:
            self._give_up(reply)
        was_returning = reply.adapter in self._returning
        self._returning.discard(reply.adapter)
        return was_returning and not self._returning

    def _keep(self, link: EngineLink, loaded: AdapterLoaded) -> None:
        self._held.add(loaded.adapter)
        waiting = self._waiting_for(loaded.adapter)
        if waiting is not None:
            waiting.set_result(loaded.rank)
        elif loaded.adapter not in self:
            self.unload(link, loaded.adapter)  # nobody wants it any more

    def _give_up(self, refused: AdapterRefused) -> None:
        waiting = self._waiting_for(refused.adapter)
        if waiting is not None:
            waiting.set_exception(AdapterError(refused.message))
        elif refused.adapter in self:
            path = self._paths.pop(refused.adapter)
            logger.error("the adapter at %s is lost: %s", path, refused.message)

    def _waiting_for(self, adapter: int) -> asyncio.Future[int] | None:
        reply = self._replies.get(adapter)
        return None if reply is None or reply.done() else reply

    def lose(self, reason: str) -> None:
        """The process has gone: fail the loads that it has not answered."""
        self._returning = set()
        self._held = set()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(EngineUnavailableError(reason))
