"""Few combinations of many settings in which every two values of two settings meet at least once."""

from __future__ import annotations

import itertools
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Row = dict[str, str]
Pair = tuple[tuple[str, str], tuple[str, str]]


def all_pairs(
    settings: Mapping[str, Sequence[str]], allows: Callable[[Row], bool] = lambda row: True, seed: int = 0
) -> list[Row]:
    """Return rows that give each setting a value, and cover every pair of values that `allows` permits.

    Greedy: each row starts with a pair that is not covered yet, and takes for the other settings, in random
    order, the values that cover most. `allows` is asked of rows that are not complete, too; a row that cannot
    be completed is given up for another.
    """
    random = Random(seed)
    uncovered = {pair: None for pair in _pairs_of_all(settings) if allows(dict(pair))}
    rows: list[Row] = []
    while uncovered:
        start = dict(next(iter(uncovered)))
        row = None
        for _ in range(100):
            row = _complete(start, settings, allows, uncovered, random)
            if row is not None:
                break
        assert row is not None, f"{start} can be no part of a complete row"
        for pair in pairs_of(row):
            uncovered.pop(pair, None)
        rows.append(row)
    return rows


def pairs_of(row: Row) -> Iterator[Pair]:
    """Yield all pairs of values in a row."""
    return itertools.combinations(sorted(row.items()), 2)


def _pairs_of_all(settings: Mapping[str, Sequence[str]]) -> Iterator[Pair]:
    for first, second in itertools.combinations(sorted(settings), 2):
        for one, other in itertools.product(settings[first], settings[second]):
            yield (first, one), (second, other)


def _complete(
    start: Row,
    settings: Mapping[str, Sequence[str]],
    allows: Callable[[Row], bool],
    uncovered: Mapping[Pair, None],
    random: Random,
) -> Row | None:
    row = dict(start)
    names = [name for name in settings if name not in row]
    for name in random.sample(names, len(names)):
        values = [value for value in settings[name] if allows(row | {name: value})]
        if not values:
            return None
        gains = {value: _gain((name, value), row, uncovered) for value in random.sample(values, len(values))}
        row[name] = max(gains, key=gains.__getitem__)
    return row


def _gain(new: tuple[str, str], row: Row, uncovered: Mapping[Pair, None]) -> int:
    """How many uncovered pairs a value makes with those of a row."""
    return sum(((new, old) if new < old else (old, new)) in uncovered for old in row.items())
