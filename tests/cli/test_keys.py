"""Keys on the command line and in the environment: hashed at once, and never shown."""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING, Any

import pytest

from cli import chat, serve, translate, up
from cli.__main__ import main, make_parser
from cli.flags import read_groups
from cli.keys import key_to_show, shown_key, variables_of
from cli.supervisor import Child
from cli.up import next_step
from gate.keys import Secret, parse_key

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


def read(module: ModuleType, name: str, *words: str, **environ: str) -> dict[str, Any]:
    return read_groups(module.GROUPS, make_parser().parse_args([name, *words]), environ)


def test_a_server_keeps_hashes_alone() -> None:
    values = read(serve, "serve", "--api-key", "a:one", "two", "--admin-api-key", "boss")
    config = serve.to_config(values)
    assert config.api_keys == (parse_key("a:one"), parse_key("two"))
    assert config.admin_api_keys == (parse_key("boss"),)
    assert "two" not in repr(config)
    assert "boss" not in repr(config)


def test_a_translator_keeps_the_operators_key_out_of_sight() -> None:
    config = translate.to_config(read(translate, "translate", PAGEWIRE_ADMIN_API_KEY="x:boss"))
    assert config.admin_secrets == (Secret("x:boss"),)
    assert config.admin_secrets[0].shown == "boss"
    assert "boss" not in repr(config)


@pytest.mark.parametrize("variable", ["PAGEWIRE_API_KEY", "PAGEWIRE_API_KEYS"])
def test_keys_may_come_from_the_environment(variable: str) -> None:
    values = read(serve, "serve", **{variable: "a:one,b:two"})
    assert values["api_keys"] == (parse_key("a:one"), parse_key("b:two"))
    assert read(chat, "chat", **{variable: "a:one,b:two"})["api_key"] == "one"


@pytest.mark.parametrize("key", ["plain", "my:secret", "a,b", "sha256=" + "0" * 64, "~:,="])
def test_vllms_variable_is_one_key_as_it_stands(key: str) -> None:
    environ = {"VLLM_API_KEY": key}
    (kept,) = read(serve, "serve", **environ)["api_keys"]
    assert kept.digest == hashlib.sha256(key.encode()).digest()
    assert kept.tenant == f"key-{kept.digest.hex()[:12]}"
    assert read(translate, "translate", **environ)["api_keys"] == (kept,)
    assert read(chat, "chat", **environ)["api_key"] == key
    values = read(up, "up", **environ)
    assert key_to_show(values) == key
    assert read(serve, "serve", **variables_of(values))["api_keys"] == (kept,)


def test_our_variables_beat_vllms() -> None:
    environ = {"VLLM_API_KEY": "theirs", "PAGEWIRE_API_KEY": "a:ours"}
    assert read(serve, "serve", **environ)["api_keys"] == (parse_key("a:ours"),)
    assert read(chat, "chat", **environ)["api_key"] == "ours"


@pytest.mark.parametrize("key", ["my secret", "schlüssel", "key\n", "\udc80"])
def test_what_no_caller_can_show_is_refused_and_not_shown(
    key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve"], {"VLLM_API_KEY": key}) == 2
    assert (
        capsys.readouterr().err == "pagewire serve: VLLM_API_KEY: expected one key, of visible characters\n"
    )


def test_a_bad_key_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--api-key", "my secret"], {}) == 2
    error = capsys.readouterr().err
    assert "--api-key: expected KEY or TENANT:KEY" in error
    assert "secret" not in error


@pytest.mark.parametrize(("text", "key"), [("one", "one"), ("a:one", "one"), ("a:one,b:two", "one")])
def test_a_client_shows_a_key_without_its_tenant(text: str, key: str) -> None:
    assert shown_key(text) == key


def test_up_hands_keys_on_by_the_environment() -> None:
    values = read(up, "up", "--api-key", "a:one", "b:two", "--admin-api-key", "boss")
    assert variables_of(values) == {"PAGEWIRE_API_KEY": "a:one,b:two", "PAGEWIRE_ADMIN_API_KEY": "boss"}
    assert key_to_show(values) == "one"
    assert variables_of(read(up, "up")) == {}
    assert key_to_show(read(up, "up")) is None


def test_up_shows_a_key_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("a:sha256=" + "0" * 64 + "\nb:two\n")
    assert key_to_show(read(up, "up", "--api-key-file", str(path))) == "two"


def test_a_bad_file_of_keys_ends_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys"
    path.write_text("")
    assert main(["up", "--api-key-file", str(path)], {}) == 2
    assert "--api-key-file" in capsys.readouterr().err


def test_a_child_gets_variables_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "seen"
    program = f"import os, pathlib; pathlib.Path({str(path)!r}).write_text(os.environ['SECRET'])"
    child = Child("child", [sys.executable, "-c", program], {"SECRET": "two"})
    child.start()
    assert child._process is not None
    assert child._process.wait(60) == 0
    assert path.read_text() == "two"


def test_the_next_step_asks_for_a_key_and_shows_none() -> None:
    card = {"id": "m", "capabilities": ["completion"]}
    assert "Bearer YOUR-KEY" in next_step(card, "http://h", "g:1", 1.0, needs_key=True)
    assert "authorization" not in next_step(card, "http://h", "g:1", 1.0)
    assert "for those who have a key" in next_step({}, "http://h", "g:1", 1.0)
