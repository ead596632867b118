"""What one tenant has been served."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.request import Request


class Account:
    """A tenant's sequences that wait, and its share so far.

    `waiting_queue.py` keeps the accounts, and `running_set.py` counts who runs.
    """

    __slots__ = ("is_listed", "num_running", "number", "served", "waiting", "weight")

    def __init__(self) -> None:
        self.weight = 1.0
        """A tenant of weight 2 is served twice as much as one of weight 1, while both have work."""
        self.served = 0.0
        """Tokens served, over the weight: of prompts those that the cache did not hold, of outputs all."""
        self.number = 0
        """Who began to wait earlier has the lower one. It decides between equals."""
        self.waiting: list[Request] = []
        """Lowest rank first."""
        self.num_running = 0
        """Sequences that hold a row."""
        self.is_listed = False
        """Whether the queue's order has an entry for it."""

    def charge(self, num_tokens: int) -> None:
        """Note that so many tokens were served."""
        self.served += num_tokens / self.weight
