"""Finished responses, kept in memory for later turns: bounded in number, bytes and age."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from translator.response_items import Item
    from translator.response_object import Body

# What a response takes beside its bytes, and so does the index of its items, each.
_OVERHEAD_BYTES = 1024
_ITEM_BYTES = 256


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One finished response."""

    body_json: bytes
    input_json: bytes
    """Its own input items; those of earlier turns are kept with their responses."""
    item_ids: tuple[str, ...]
    """Of its input and its output."""
    frames: tuple[bytes, ...] = ()
    """The frames of its stream, where it ran in the background."""

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        own = self.turn_bytes + sum(map(len, self.frames))
        return own + _OVERHEAD_BYTES + sum(_ITEM_BYTES + len(item_id) for item_id in self.item_ids)

    @property
    def turn_bytes(self) -> int:
        """What it counts as a turn of a conversation."""
        return len(self.body_json) + len(self.input_json)

    def body(self) -> Body:
        """Return the response object."""
        body: Body = msgspec.json.decode(self.body_json)
        return body

    def input_items(self) -> list[Item]:
        """Return the items that came with the request."""
        items: list[Item] = msgspec.json.decode(self.input_json)
        return items

    def turn(self) -> tuple[list[Item], str | None]:
        """Return the items of its input and output, and the id of the response before it."""
        body = self.body()
        return [*self.input_items(), *body["output"]], body["previous_response_id"]


@dataclass(slots=True)
class _Entry:
    stored: StoredResponse
    num_bytes: int
    used_s: float


class ResponseStore:
    """Keeps responses by owner and id. The one that was used least recently goes first."""

    def __init__(
        self,
        max_responses: int,
        max_bytes: int,
        max_age_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty store.

        Args:
            max_responses: 0 keeps none.
            max_bytes: of all responses together.
            max_age_s: how long a response is kept after its last use.
            clock: tells the time in seconds.
        """
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._clock = clock
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._holders: dict[tuple[str, str], list[str]] = {}
        """The responses that hold an item, by the item's owner and id."""
        self._num_bytes = 0

    @property
    def is_on(self) -> bool:
        """Whether anything is kept."""
        return self._max_responses > 0

    @property
    def num_bytes(self) -> int:
        """What is kept, in bytes."""
        return self._num_bytes

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, owner: str, body: Body, input_items: Sequence[Item], frames: Sequence[bytes] = ()) -> None:
        """Keep a finished response. One that is larger than the store is not kept."""
        stored = StoredResponse(
            body_json=msgspec.json.encode(body),
            input_json=msgspec.json.encode(input_items),
            item_ids=tuple(item["id"] for item in (*input_items, *body["output"])),
            frames=tuple(frames),
        )
        self.delete(owner, body["id"])
        num_bytes = stored.num_bytes
        if num_bytes > self._max_bytes:
            return
        self._entries[owner, body["id"]] = _Entry(stored, num_bytes, self._clock())
        self._num_bytes += num_bytes
        for item_id in dict.fromkeys(stored.item_ids):
            self._holders.setdefault((owner, item_id), []).append(body["id"])
        self._evict()

    def get(self, owner: str, response_id: str) -> StoredResponse | None:
        """Return a response, and note that it was used. None if it is not there."""
        self._evict()
        entry = self._entries.get((owner, response_id))
        if entry is None:
            return None
        entry.used_s = self._clock()
        self._entries.move_to_end((owner, response_id))
        return entry.stored

    def find_item(self, owner: str, item_id: str) -> Item | None:
        """Return an input or output item of a response that is kept."""
        self._evict()
        holders = self._holders.get((owner, item_id))
        stored = self.get(owner, holders[-1]) if holders else None
        if stored is None:
            return None
        items: list[Item] = [*stored.input_items(), *stored.body()["output"]]
        return next(item for item in items if item["id"] == item_id)

    def delete(self, owner: str, response_id: str) -> bool:
        """Forget a response. Returns whether it was there."""
        entry = self._entries.pop((owner, response_id), None)
        if entry is None:
            return False
        self._num_bytes -= entry.num_bytes
        for item_id in dict.fromkeys(entry.stored.item_ids):
            holders = self._holders[owner, item_id]
            holders.remove(response_id)
            if not holders:
                del self._holders[owner, item_id]
        return True

    def _evict(self) -> None:
        """Forget what is too old or too much. Entries lie in the order of their last use."""
        oldest_s = self._clock() - self._max_age_s
        while self._entries:
            (owner, response_id), entry = next(iter(self._entries.items()))
            is_full = len(self._entries) > self._max_responses or self._num_bytes > self._max_bytes
            if not is_full and entry.used_s >= oldest_s:
                return
            self.delete(owner, response_id)
