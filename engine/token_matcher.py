"""What the scheduler needs to know of a grammar: which tokens may come next, and when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from engine.messages import FinishReason


class TokenMatcher(Protocol):
    """Follows one sequence. It works beside the steps."""

    @property
    def mask(self) -> bytes | None:
        """A bit for each token of the vocabulary, least significant first: whether it may come next.

        None while that is not known yet, and once the sequence must end.
        """

    @property
    def ending(self) -> FinishReason | None:
        """Why the sequence must end here: COMPLETE or FAILED."""

    def take(self, token_id: int) -> None:
        """Begin to find out what may follow this token."""
