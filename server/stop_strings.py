"""Finds the first of several stop strings in text that comes in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Released(NamedTuple):
    """Text that can no longer become part of a stop string."""

    text: str
    stop: str | None = None
    """The stop string that ended the text; it is not part of `text`."""
    rest: str = ""
    """What was pushed after it."""


class StopStrings:
    """Releases text up to the first stop string, and holds back only what may yet become one.

    The first stop string is the one that is complete first; of those that are complete with the same
    character it is the longest. That does not depend on how the text is cut into pieces. Linear in the
    text, by the Knuth-Morris-Pratt automaton of each string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        assert all(stops), "an empty stop string would match everywhere"
        self._stops = tuple(sorted(set(stops), key=len, reverse=True))
        self._borders = [_borders(stop) for stop in self._stops]
        self._first_characters = frozenset(stop[0] for stop in self._stops)
        self._matched = [0] * len(self._stops)
        self._held = ""

    @property
    def are_none(self) -> bool:
        """Whether there is nothing to look for."""
        return not self._stops

    def push(self, text: str, may_stop: bool = True) -> Released:
        """Take the next piece and return what is certain.

        Without `may_stop` a stop string that is complete within the piece is text; one that the piece
        begins or goes on with may still be completed later.
        """
        if not self._held and self._first_characters.isdisjoint(text):
            return Released(text)
        for index, character in enumerate(text):
            stop = self._advance(character)
            if stop is not None and may_stop:
                seen = self._held + text[: index + 1]
                self._held = ""
                return Released(seen[: len(seen) - len(stop)], stop, text[index + 1 :])
        seen = self._held + text
        certain = len(seen) - max(self._matched)
        self._held = seen[certain:]
        return Released(seen[:certain])

    def flush(self) -> str:
        """Return the text held back: nothing more follows."""
        held, self._held = self._held, ""
        return held

    def _advance(self, character: str) -> str | None:
        """Return the longest stop string that is complete with this character."""
        complete = None
        for index, stop in enumerate(self._stops):
            length = self._matched[index]
            while length and stop[length] != character:
                length = self._borders[index][length - 1]
            if stop[length] == character:
                length += 1
            if length == len(stop):
                complete = complete or stop
                length = self._borders[index][-1]
            self._matched[index] = length
        return complete


def _borders(text: str) -> list[int]:
    """For each prefix of `text`, the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(text)
    length = 0
    for index in range(1, len(text)):
        while length and text[index] != text[length]:
            length = borders[length - 1]
        if text[index] == text[length]:
            length += 1
        borders[index] = length
    return borders
