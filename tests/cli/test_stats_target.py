"""Where `pagewire up` lets the translator ask for the console's figures."""

from __future__ import annotations

import pytest

from cli.up import stats_target


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ["--stats-target=127.0.0.1:50052"]),
        ({"admin_host": "0.0.0.0", "admin_port": 7}, ["--stats-target=127.0.0.1:7"]),
        ({"admin_host": "::", "admin_port": 7}, ["--stats-target=[::1]:7"]),
        ({"admin_port": 0}, []),
        ({"admin_target": "there:1"}, []),
        ({"stats_target": "there:1"}, []),
    ],
)
def test_the_console_sees_the_engine_where_it_can(values: dict[str, object], expected: list[str]) -> None:
    assert stats_target(values) == expected
