"""How many processes a translator has, and what each of them is told."""

from __future__ import annotations

import socket

import pytest

from cli.__main__ import make_parser
from cli.flags import UsageError, read_groups
from cli.translate import GROUPS
from cli.workers import default_count, num_processes, place_of, translators
from translator.config import TranslatorConfig


@pytest.mark.parametrize(
    ("num_cores", "count"), [(1, 1), (2, 1), (4, 1), (7, 1), (8, 2), (12, 3), (16, 4), (192, 4)]
)
def test_there_are_several_by_default_where_cores_abound(num_cores: int, count: int) -> None:
    assert default_count(num_cores) == count


@pytest.mark.parametrize("words", [["--api-server-count", "5"], ["-asc", "5"], ["--api-server-count=5"]])
def test_the_flag_has_the_names_that_vllm_gave_it(words: list[str]) -> None:
    arguments = make_parser().parse_args(["translate", *words])
    assert num_processes(read_groups(GROUPS, arguments, {})) == 5


def test_each_process_is_told_its_place() -> None:
    with translators(TranslatorConfig(port=0), 2, ["--log-level=info"], {"SECRET": "s"}) as http:
        places = [place_of(child.variables) for child in http.children]
        assert [child.name for child in http.children] == [
            "pagewire translate, process 0,",
            "pagewire translate, process 1,",
        ]
    assert all(child.variables["SECRET"] == "s" for child in http.children)
    workers = [place.worker for place in places if place is not None]
    assert [(worker.index, worker.count) for worker in workers if worker is not None] == [(0, 2), (1, 2)]


def test_one_process_alone_has_no_others_to_find() -> None:
    with translators(TranslatorConfig(port=0), 1, [], {}) as http:
        (child,) = http.children
        place = place_of(child.variables)
        assert place is not None
        assert place.worker is None
        assert child.name == "pagewire translate"


def test_a_taken_port_is_an_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(UsageError, match=f"--port: cannot listen on 127.0.0.1 port {port}"),
            translators(TranslatorConfig(port=port), 1, [], {}),
        ):
            pass
