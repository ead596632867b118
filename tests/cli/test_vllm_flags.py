"""Command lines of vLLM, as they stand."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cli import serve, translate, up
from cli.__main__ import main, make_parser
from cli.flags import UsageError, read_groups, with_dashes
from cli.vllm_flags import SWITCHES, VALUES, tell_vllm_flags

if TYPE_CHECKING:
    import argparse

PAGE = Path(__file__).parents[2] / "docs" / "vllm-flags.md"
GROUPS = {"up": up.GROUPS, "serve": serve.GROUPS, "translate": translate.GROUPS}


def parse(command: str, *words: str) -> argparse.Namespace:
    return make_parser().parse_args(with_dashes([command, *words]))


def read(command: str, *words: str, **environ: str) -> dict[str, Any]:
    return read_groups(GROUPS[command], parse(command, *words), environ)


def test_a_command_line_of_vllm_is_taken() -> None:
    words = [
        "some/model", "--served-model-name", "a", "b", "--max_model_len=1k", "-tp", "1", "-q", "fp8",
        "--enable-chunked-prefill", "--generation-config", "vllm", "--allowed-origins", '["*"]',
        "--reasoning-parser", "deepseek-r1", "--tool-call-parser", "granite4", "--enable-auto-tool-choice",
        "--disable-log-requests", "--host", "0.0.0.0", "--shutdown_timeout", "5", "-pp", "1",
        "--sse-keep-alive-interval", "7", "--chat-template", "{{ a_b }}",
    ]  # fmt: skip
    assert read("up", *words) == {
        "model": "some/model",
        "served_model_names": ("a", "b"),
        "engine.max_model_len": 1000,
        "tensor_parallel_size": 1,
        "engine.quantization": "fp8",
        "generation_config": "none",
        "allowed_origins": ("*",),
        "reasoning_parser": "deepseek-r1",
        "tool_call_parser": "granite4",
        "enable_auto_tool_choice": True,
        "host": "0.0.0.0",
        "drain_timeout_s": 5.0,
        "sse_keep_alive_s": 7.0,
        "chat_template": "{{ a_b }}",
    }
    tell_vllm_flags(parse("up", *words))


@pytest.mark.parametrize(
    ("words", "spelt"),
    [
        (["--max_model_len", "1_0"], ["--max-model-len", "1_0"]),
        (["--served_model_name=a_b=c_d"], ["--served-model-name=a_b=c_d"]),
        (["--no_enable_prefix_caching"], ["--no-enable-prefix-caching"]),
        (["--chat-template={{ x_y }}\n{{ z_ }}"], ["--chat-template={{ x_y }}\n{{ z_ }}"]),
        (["a_b", "-x_y", "--what is a_b?"], ["a_b", "-x_y", "--what is a_b?"]),
        (["--a_b", "--", "--c_d"], ["--a-b", "--", "--c_d"]),
    ],
)
def test_underscores_are_dashes_in_names_alone(words: list[str], spelt: list[str]) -> None:
    assert with_dashes(words) == spelt


def test_underscores_reach_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--max_num_seqs", "no_number"], {}) == 2
    assert '--max-num-seqs: expected a whole number of at least 1, got "no_number"' in capsys.readouterr().err


@pytest.mark.parametrize("text", ["auto", "-1"])
def test_a_length_of_auto_is_as_if_none_were_given(text: str) -> None:
    assert read("serve", "--max-model-len", text) == {}
    assert read("serve", "--max-model-len", text, PAGEWIRE_MAX_MODEL_LEN="7") == {}
    assert read("serve", PAGEWIRE_MAX_MODEL_LEN=text) == {}


def test_origins_may_be_a_json_list_by_flag_and_variable() -> None:
    text = '["https://a.example", "http://b:1"]'
    expected = {"allowed_origins": ("https://a.example", "http://b:1")}
    assert read("translate", "--allowed-origins", text) == expected
    assert read("translate", PAGEWIRE_ALLOWED_ORIGINS=text) == expected
    assert read("translate", "--allowed-origins", "https://a.example", "http://b:1") == expected
    with pytest.raises(UsageError, match="--allowed-origins: expected a JSON list of texts"):
        read("translate", "--allowed-origins", "[*]")
    with pytest.raises(UsageError, match="--allowed-origins: expected an origin"):
        read("translate", "--allowed-origins", '["a"]')


def agreeing() -> list[list[str]]:
    switches = [[f"--{name}" if so == "on" else f"--no-{name}"] for name, (so, _) in SWITCHES.items()]
    values = [
        [f"--{name}", value] for name, (so, _) in VALUES.items() for value in (["7"] if so is None else so)
    ]
    return switches + values


def other() -> list[list[str]]:
    switches = [[f"--no-{name}" if so == "on" else f"--{name}"] for name, (so, _) in SWITCHES.items()]
    return switches + [[f"--{name}", "other"] for name, (so, _) in VALUES.items() if so is not None]


@pytest.mark.parametrize("words", agreeing(), ids=" ".join)
def test_what_is_so_anyway_is_taken_and_told(words: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        tell_vllm_flags(parse("up", *words))
    (line,) = caplog.messages
    assert line.startswith("these flags change nothing")
    assert " ".join(words) in line


@pytest.mark.parametrize("words", other(), ids=" ".join)
def test_what_is_not_so_is_refused_and_told(words: list[str]) -> None:
    name = words[0].removeprefix("--")
    fact = (SWITCHES | VALUES)[name.removeprefix("no-")][1]
    with pytest.raises(UsageError) as refused:
        tell_vllm_flags(parse("up", *words))
    assert str(refused.value).startswith(words[0])
    assert str(refused.value).endswith(fact)


def test_all_that_is_so_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        tell_vllm_flags(parse("translate"))
        assert caplog.messages == []
        tell_vllm_flags(parse("translate", *(word for words in agreeing() for word in words)))
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--trust_remote_code"], "--trust-remote-code: not in Pagewire: code that comes with a model"),
        (["--config=a.yaml"], "--config: not in Pagewire: each flag has a variable, PAGEWIRE_"),
        (["--response-role", "bot"], '--response-role: expected assistant, got "bot": answers are'),
        (["-dp", "2"], '--data-parallel-size: expected 1, got "2": a server has one engine'),
    ],
)
@pytest.mark.parametrize("command", GROUPS)
def test_a_refusal_says_what_to_do_instead(command: str, words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        tell_vllm_flags(parse(command, *words))
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("command", GROUPS)
def test_a_refusal_ends_the_command(command: str) -> None:
    words = [sys.executable, "-m", "cli", command, "--trust_remote_code"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"pagewire {command}: --trust-remote-code: not in Pagewire: code")


def test_the_page_names_each_flag_and_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8")
    ours = {flag.name for groups in GROUPS.values() for group in groups for flag in group.flags}
    named = {name.removeprefix("no-") for name in re.findall(r"`--([a-z0-9.-]+)", text)}
    assert (SWITCHES | VALUES).keys() <= named
    aliases = {"shutdown-timeout", "sse-keep-alive-interval"}
    assert named <= SWITCHES.keys() | VALUES.keys() | ours | aliases
