"""What the server relies on in its libraries: looked at when it starts, and written down for installs."""

from __future__ import annotations

import logging
import re
import tomllib
from pathlib import Path

import pytest

from engine.config import EngineConfig
from pagewire.channel import CHANNEL_OPTIONS
from server import app, libraries
from server.config import ServerConfig
from server.libraries import (
    FLOORS,
    LibraryError,
    check_libraries,
    check_options,
    check_parser,
    check_versions,
)
from server.memory_return import find_trim
from translator import backend

ROOT = Path(__file__).parents[2]
OF_THE_TRANSLATOR = {"starlette": "1.3.1", "h11": "0.16"}
"""A Host that moved the path past the gate; chunks that end where they should not."""

pytestmark = pytest.mark.check("S21")


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def test_what_is_installed_will_do() -> None:
    check_libraries()
    check_versions(OF_THE_TRANSLATOR)


def test_an_old_library_is_refused() -> None:
    with pytest.raises(LibraryError, match=r"grpcio 1\.\S+ is installed; expected 99\.1 or newer"):
        check_versions({"grpcio": "99.1"})


def test_another_parser_is_refused() -> None:
    with pytest.raises(LibraryError, match="'python'; expected 'upb'"):
        check_parser("python")


def test_every_option_of_ours_is_known_to_grpc() -> None:
    check_options(name for name, _ in (*CHANNEL_OPTIONS, *backend.BACKEND_OPTIONS))


def test_an_option_that_grpc_does_not_know_is_refused() -> None:
    """Others were bitten by the first; the second is the beginning of a real one."""
    for name in ("grpc.http2.min_recv_ping_interval_without_data_ms", "grpc.keepalive_time"):
        with pytest.raises(LibraryError, match=name):
            check_options([name])


def test_the_server_does_not_start_on_a_bad_library(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(libraries.FLOORS, "jinja2", "99")
    assert app.run(ServerConfig(engine=EngineConfig(model_path=""), port=0, admin_port=0)) == 2
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "jinja2" in record.message


@pytest.mark.check("S06")
def test_no_install_brings_a_library_with_known_holes() -> None:
    """The vulnerability service of pip-audit is not asked: it is not there where the tests run."""
    pinned = dict(re.findall(r"(?m)^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text()))
    projects = [
        tomllib.loads((ROOT / path).read_text())["project"]
        for path in ("pyproject.toml", "clients/python/pyproject.toml")
    ]
    needed = [
        requirement
        for project in projects
        for group in (project["dependencies"], *project.get("optional-dependencies", {}).values())
        for requirement in group
    ]
    declared = {
        match[1].lower(): match[2]
        for requirement in needed
        if (match := re.match(r"([\w.-]+)>=([\d.]+)", requirement))
    }
    pinned = {name.lower(): version for name, version in pinned.items()}
    for package, floor in {**FLOORS, **OF_THE_TRANSLATOR}.items():
        assert numbers(declared[package]) >= numbers(floor), package
        assert numbers(pinned[package]) >= numbers(floor), package


@pytest.mark.check("S06")
def test_forms_are_not_parsed_by_anybody() -> None:
    """python-multipart has had holes of its own, and no request of ours is a form."""
    assert "multipart" not in (ROOT / "constraints.txt").read_text()


def test_free_memory_can_be_given_back() -> None:
    trim = find_trim()
    assert trim is None or trim(0) in (0, 1)
