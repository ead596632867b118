"""Shares and limits of tenants, on the command line."""

from __future__ import annotations

import pytest

from cli import serve, up
from cli.__main__ import make_parser
from cli.flags import UsageError, give_again, read_groups
from cli.tenants import tenants
from server.tenants import Tenants


def read(*words: str, **environ: str) -> Tenants:
    return tenants(read_groups(serve.GROUPS, make_parser().parse_args(["serve", *words]), environ))


def test_numbers_are_for_all_or_for_one() -> None:
    rules = read("--tenant-weights", "search=4", "chat=0.5", "--max-requests-per-tenant", "64", "batch=8")
    assert [rules.weight(name) for name in ("search", "chat", "batch", "")] == [4.0, 0.5, 1.0, 1.0]
    assert [rules.limit(name) for name in ("search", "batch", "")] == [64, 8, 64]
    assert read() == Tenants()


def test_the_environment_has_them_between_commas() -> None:
    rules = read(PAGEWIRE_TENANT_WEIGHTS="a=2,b=3", PAGEWIRE_MAX_REQUESTS_PER_TENANT="5,a=9")
    assert rules == Tenants(weights={"a": 2.0, "b": 3.0}, max_requests=5, max_requests_of={"a": 9})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tenant-weights", "4"], "expected TENANT=N"),
        (["--tenant-weights", "a=0"], "where N is a number of at least 0.001 and at most 1000"),
        (["--tenant-weights", "a=nan"], "where N is a number"),
        (["--tenant-weights", "a/b=1"], "TENANT being the name before a key"),
        (["--tenant-weights", "a=1", "a=2"], 'got two for "a"'),
        (["--max-requests-per-tenant", "a=0"], "where N is a whole number of at least 1"),
        (["--max-requests-per-tenant", "1", "2"], 'got two for "all"'),
    ],
)
def test_what_cannot_be_used_is_named(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        read(*words)
    assert words[0] in str(raised.value)


def test_up_passes_them_on() -> None:
    words = ["--tenant-weights", "a=2", "b=3", "--max-requests-per-tenant", "5", "a=9"]
    again = give_again(up._SERVER_FLAGS, make_parser().parse_args(["up", *words]))
    assert again == words
