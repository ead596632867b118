"""The responses that can be reached from here: this process's own, and those of the others."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec

from translator.peers import gone
from translator.response_background import BackgroundRuns
from translator.response_store import ResponseStore, StoredResponse

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from translator.config import TranslatorConfig
    from translator.peers import Peers
    from translator.response_items import Item

TURNS = "turns"
ITEMS = "items"
_OWN_ID = re.compile(r"resp_[0-9a-f]{30}([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class EarlierResponses:
    """What requests may go on from: what is kept here, and what was fetched for one of them."""

    store: ResponseStore
    fetched: Mapping[str, StoredResponse] = field(default_factory=dict)
    """By id. Its owner's alone."""
    fetched_items: Mapping[str, Item] = field(default_factory=dict)

    def get(self, owner: str, response_id: str) -> StoredResponse | None:
        """Return a response. None if it is not there."""
        return self.fetched.get(response_id) or self.store.get(owner, response_id)

    def find_item(self, owner: str, item_id: str) -> Item | None:
        """Return an input or output item of a response that is kept."""
        return self.fetched_items.get(item_id) or self.store.find_item(owner, item_id)


class _TurnsQuestion(msgspec.Struct, frozen=True):
    """A response and those before it, as far as one process has them, and until they are that large."""

    owner: str
    response_id: str
    max_bytes: int


class _ItemsQuestion(msgspec.Struct, frozen=True):
    owner: str
    item_ids: list[str]


class ResponseShelf:
    """Finished responses, and those that run in the background.

    A response stays with the process that made it, and its id says which one that is.
    """

    def __init__(self, config: TranslatorConfig, peers: Peers | None = None) -> None:
        """Without `peers` this process is the only one."""
        self.store = ResponseStore(
            config.response_store_size, config.response_store_bytes, config.response_store_age_s
        )
        self.runs = BackgroundRuns()
        self.peers = peers
        self._max_bytes = config.max_body_bytes

    def new_id(self) -> str:
        """Return the id of a response that is made here."""
        digits = uuid.uuid4().hex
        return f"resp_{digits}" if self.peers is None else f"resp_{digits[:-2]}{self.peers.own_index:02x}"

    def holder_of(self, response_id: str) -> int | None:
        """Return the peer that made a response; None: it was made here, if anywhere."""
        found = _OWN_ID.fullmatch(response_id)
        if self.peers is None or found is None:
            return None
        index = int(found[1], 16)
        return index if index in self.peers else None

    async def earlier(
        self, owner: str, response_id: str | None, item_ids: Collection[str] = ()
    ) -> EarlierResponses:
        """Fetch what others hold of a conversation, and of the items that a request refers to.

        What is missing, or more than a request may have, is for whoever reads it to notice.

        Raises:
            ApiError: 503; a process that may hold some of it does not answer.
        """
        if self.peers is None:
            return EarlierResponses(self.store)
        fetched: dict[str, StoredResponse] = {}
        num_bytes = 0
        while response_id is not None and num_bytes <= self._max_bytes:
            turns = await self._turns_from(owner, response_id)
            if not turns:
                break
            num_bytes += sum(turn.turn_bytes for turn in turns)
            bodies = [turn.body() for turn in turns]
            fetched |= {body["id"]: turn for body, turn in zip(bodies, turns, strict=True)}
            response_id = bodies[-1]["previous_response_id"]
        return EarlierResponses(self.store, fetched, await self._items(owner, item_ids, self.peers))

    async def tell_turns(self, question: bytes) -> bytes:
        """Answer a peer that asks for a conversation."""
        asked = msgspec.msgpack.decode(question, type=_TurnsQuestion)
        return msgspec.msgpack.encode(self._own_turns(asked.owner, asked.response_id, asked.max_bytes))

    async def tell_items(self, question: bytes) -> bytes:
        """Answer a peer that asks for items."""
        asked = msgspec.msgpack.decode(question, type=_ItemsQuestion)
        found = {item_id: self.store.find_item(asked.owner, item_id) for item_id in asked.item_ids}
        return msgspec.msgpack.encode({item_id: item for item_id, item in found.items() if item is not None})

    async def _turns_from(self, owner: str, response_id: str) -> list[StoredResponse]:
        """Return a response and those before it that lie beside it, latest first."""
        holder = self.holder_of(response_id)
        if holder is None or self.peers is None:
            return self._own_turns(owner, response_id, self._max_bytes)
        answer = await self.peers.ask(holder, TURNS, _TurnsQuestion(owner, response_id, self._max_bytes))
        return msgspec.msgpack.decode(answer, type=list[StoredResponse])

    def _own_turns(self, owner: str, response_id: str, max_bytes: int) -> list[StoredResponse]:
        turns: list[StoredResponse] = []
        num_bytes = 0
        next_id: str | None = response_id
        while next_id is not None and num_bytes <= max_bytes:
            stored = self.store.get(owner, next_id)
            if stored is None:
                break
            turns.append(replace(stored, frames=()))
            num_bytes += stored.turn_bytes
            next_id = stored.body()["previous_response_id"]
        return turns

    async def _items(self, owner: str, item_ids: Collection[str], peers: Peers) -> dict[str, Item]:
        missing = [item_id for item_id in item_ids if self.store.find_item(owner, item_id) is None]
        if not missing:
            return {}
        answers = await peers.ask_all(ITEMS, _ItemsQuestion(owner, missing))
        found: dict[str, Item] = {}
        for answer in answers.values():
            if answer is not None:
                found |= msgspec.msgpack.decode(answer)
        if None in answers.values() and not found.keys() >= set(missing):
            raise gone()
        return found
