"""Flags, their environment variables, and what is said of bad values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from cli import bench, chat, doctor, health, serve, top, translate, up
from cli.__main__ import COMMANDS, main, make_parser
from cli.flags import Flag, UsageError, read_groups
from engine.config import EngineConfig
from server.config import LoraModule, ServerConfig
from translator.config import TranslatorConfig

if TYPE_CHECKING:
    from pathlib import Path

    import msgspec

    from cli.flags import Group

SERVE_FLAGS = [
    "model", "served-model-name", "tokenizer", "chat-template", "trust-request-chat-template",
    "tool-call-parser", "enable-auto-tool-choice", "reasoning-parser", "revision", "download-dir",
    "load-format", "model-impl", "dtype", "quantization", "kv-cache-dtype", "max-model-len",
    "generation-config", "seed", "device", "tensor-parallel-size", "gpu-memory-utilization",
    "kv-cache-memory-bytes", "num-gpu-blocks-override", "block-size", "max-num-seqs",
    "max-num-batched-tokens", "enable-lora", "lora-modules", "max-loras", "max-lora-rank",
    "max-cpu-loras", "long-prefill-token-threshold", "enable-prefix-caching", "num-threads",
    "host", "port", "grpc-front-count", "admin-host", "admin-port",
    "enable-metrics", "metrics-host", "metrics-port", "enable-reflection", "max-logprobs",
    "max-queued-requests", "queue-timeout", "max-message-bytes", "drain-timeout", "log-level", "log-format",
    "otlp-traces-endpoint",
]  # fmt: skip
GRPC_TLS_FLAGS = ["grpc-ssl-certfile", "grpc-ssl-keyfile", "grpc-ssl-ca-certs"]
HTTP_TLS_FLAGS = ["ssl-certfile", "ssl-keyfile", "ssl-ca-certs", "ssl-cert-reqs"]
CLIENT_TLS_FLAGS = ["grpc-ca-certs", "grpc-client-certfile", "grpc-client-keyfile"]
TENANT_FLAGS = ["tenant-weights", "max-requests-per-tenant"]
KEY_FLAGS = ["api-key", "api-key-file", "admin-api-key", "admin-api-key-file"]
TRANSLATE_FLAGS = [
    "grpc-target", "admin-target", "stats-target", "host", "port", "api-server-count", "max-body-bytes",
    "header-timeout", "body-timeout", "keep-alive-timeout", "request-timeout",
    "sse-keep-alive", "enable-force-include-usage", "allowed-origins", "response-store-size",
    "response-store-bytes", "response-store-age", "drain-timeout", "log-level", "log-format",
    "otlp-traces-endpoint",
]  # fmt: skip
MODEL_AND_ENGINE_FLAGS = [name for name in SERVE_FLAGS[: SERVE_FLAGS.index("host")] if "lora" not in name]
FLAGS = {
    "bench": [
        *MODEL_AND_ENGINE_FLAGS,
        "workload",
        "num-requests",
        "concurrency",
        "input-len",
        "output-len",
        "prefix-len",
        "request-rate",
        "workload-seed",
        "temperature",
        "target",
        "api-key",
        *CLIENT_TLS_FLAGS,
        "bench-model",
        "vocab-size",
        "num-processes",
        "output-json",
    ],
    "doctor": [*MODEL_AND_ENGINE_FLAGS, "num-sequences"],
    "serve": [*SERVE_FLAGS, *KEY_FLAGS, *GRPC_TLS_FLAGS, *TENANT_FLAGS],
    "translate": [*TRANSLATE_FLAGS, *KEY_FLAGS, *HTTP_TLS_FLAGS, *CLIENT_TLS_FLAGS, "open-metrics"],
    "up": [
        *SERVE_FLAGS,
        "grpc-host",
        "grpc-port",
        *TRANSLATE_FLAGS,
        *KEY_FLAGS,
        *GRPC_TLS_FLAGS,
        *HTTP_TLS_FLAGS,
        *CLIENT_TLS_FLAGS,
        *TENANT_FLAGS,
        "open-metrics",
    ],
    "chat": ["grpc-target", *CLIENT_TLS_FLAGS, "api-key", "system", "max-tokens", "temperature", "stats"],
    "health": ["target", "live", "api-key", *CLIENT_TLS_FLAGS],
    "top": ["admin-target", "admin-api-key", *CLIENT_TLS_FLAGS, "interval", "once", "json"],
}
GROUPS: dict[str, tuple[Group, ...]] = {
    "bench": bench.GROUPS,
    "doctor": doctor.GROUPS,
    "serve": serve.GROUPS,
    "translate": translate.GROUPS,
    "up": up.GROUPS,
    "chat": chat.GROUPS,
    "health": health.GROUPS,
    "top": top.GROUPS,
}


def flags_of(command: str) -> list[Flag]:
    return [flag for group in GROUPS[command] for flag in group.flags]


def read(command: str, *words: str, **environ: str) -> dict[str, Any]:
    return read_groups(GROUPS[command], make_parser().parse_args([command, *words]), environ)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_list_of_flags_is_frozen(command: str) -> None:
    expected = set(FLAGS[command]) - ({"grpc-target"} if command == "up" else set())
    assert {flag.name for flag in flags_of(command)} == expected
    assert len(flags_of(command)) == len(expected)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_names_each_flag_and_variable(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    text = re.sub(r"\s+", " ", capsys.readouterr().out)
    for flag in flags_of(command):
        assert f"--{flag.name}" in text
        assert f"[{flag.variable}]" in text


@pytest.mark.parametrize(
    ("command", "config"),
    [("serve", ServerConfig(engine=EngineConfig(model_path=""))), ("translate", TranslatorConfig())],
)
def test_the_help_tells_the_configs_own_defaults(command: str, config: msgspec.Struct) -> None:
    for flag in flags_of(command):
        target: Any = config
        *parents, field = flag.field.split(".")
        for parent in parents:
            target = getattr(target, parent)
        default = getattr(target, field, None)
        if flag.default is None or default is None or default == ():
            continue
        shown = {"on": True, "off": False}.get(flag.default) if flag.switch else flag.parse(flag.default)
        assert shown == default, flag.name


def test_without_flags_the_configs_are_the_default_ones() -> None:
    assert serve.to_config(read("serve")) == ServerConfig(engine=EngineConfig(model_path=""))
    assert translate.to_config(read("translate")) == TranslatorConfig()


def test_flags_reach_their_fields(tmp_path: Path) -> None:
    config = serve.to_config(
        read(
            "serve", "some/model", "--dtype", "half", "--served-model-name", "a", "b", "--max-model-len",
            "4k", "--port=0", "--no-enable-prefix-caching", "--download-dir", str(tmp_path),
            "--drain-timeout", "2.5", "--long-prefill-token-threshold", "128",
        )
    )  # fmt: skip
    assert config.model == "some/model"
    assert config.engine.long_prefill_token_threshold == 128
    assert config.engine.dtype == "float16"
    assert config.served_model_names == ("a", "b")
    assert config.engine.max_model_len == 4000
    assert config.port == 0
    assert config.engine.enable_prefix_caching is False
    assert config.cache_dir == tmp_path
    assert config.drain_timeout_s == 2.5


def test_adapters_are_switched_on_by_naming_them() -> None:
    config = serve.to_config(read("serve", "--enable-lora"))
    assert (config.engine.max_loras, config.max_cpu_loras, config.max_adapters) == (4, 16, 16)
    module = '{"name": "art", "path": "/a=b", "base_model_name": "m"}'
    config = serve.to_config(read("serve", "--lora-modules", "sql=/x=y", module, "--max-loras", "20"))
    assert config.lora_modules == (LoraModule("sql", "/x=y"), LoraModule("art", "/a=b", "m"))
    assert (config.engine.max_loras, config.max_cpu_loras) == (20, 20)
    assert serve.to_config(read("serve", "--max-loras", "2")).max_adapters == 0


def test_a_flag_beats_its_variable_and_a_variable_the_default() -> None:
    environ = {
        "PAGEWIRE_PORT": "7", "PAGEWIRE_ENABLE_REFLECTION": "yes", "PAGEWIRE_SERVED_MODEL_NAME": "a,b",
        "PAGEWIRE_DTYPE": "",
    }  # fmt: skip
    values = read("serve", "--port", "8", **environ)
    assert values == {"port": 8, "enable_reflection": True, "served_model_names": ("a", "b")}


@pytest.mark.parametrize(
    ("words", "environ", "message"),
    [
        (["--port", "99999"], {}, '--port: expected a whole number from 0 to 65535, got "99999"'),
        ([], {"PAGEWIRE_PORT": "x"}, 'PAGEWIRE_PORT: expected a whole number from 0 to 65535, got "x"'),
        (["--dtype", "int3"], {}, "--dtype: expected one of auto, float32"),
        (["--max-model-len", "0"], {}, "--max-model-len: expected a whole number of at least 1, or auto"),
        (["--max-model-len", "-2"], {}, "--max-model-len: expected a whole number of at least 1, or auto"),
        (["--gpu-memory-utilization", "1.5"], {}, "greater than 0 and at most 1"),
        (["--tensor-parallel-size", "2"], {}, "--tensor-parallel-size: expected 1, since this version"),
        (["--chat-template", "/nowhere"], {}, "--chat-template: expected the path of a file"),
        (["--drain-timeout", "nan"], {}, "--drain-timeout: expected a number of at least 0"),
        (["a", "--model", "b"], {}, '--model: "b" is given, and "a" without the flag'),
        (["--lora-modules", "sql"], {}, "--lora-modules: expected NAME=PATH or a JSON object"),
        (["--lora-modules", '{"name": "x"}'], {}, "--lora-modules: expected NAME=PATH or a JSON object"),
        (["--no-enable-lora", "--lora-modules", "a=b"], {}, "--lora-modules: expected --enable-lora"),
        (["--enable-lora", "--max-cpu-loras", "1"], {}, "--max-cpu-loras: expected at least --max-loras"),
        ([], {"PAGEWIRE_ENABLE_REFLECTION": "maybe"}, "PAGEWIRE_ENABLE_REFLECTION: expected one of 1, true"),
    ],
)
def test_a_bad_value_names_flag_value_and_expectation(
    words: list[str], environ: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *words], environ) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("pagewire serve: ")


@pytest.mark.parametrize(
    "words",
    [
        ["--grpc-target", "http://a:1"],
        ["--allowed-origins", "example.org"],
        ["--request-timeout", "0"],
        ["--max-body-bytes", "-1"],
    ],
)
def test_bad_values_of_the_translator(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", *words], {}) == 2
    assert f"{words[0]}: expected" in capsys.readouterr().err


def test_up_takes_any_port_for_http_and_needs_a_fixed_one_for_grpc(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert read("up", "--port", "0")["port"] == 0
    assert main(["up", "--grpc-port", "0"], {}) == 2
    assert "--grpc-port: expected a whole number from 1 to 65535" in capsys.readouterr().err


def test_the_help_of_up_offers_a_free_port_where_there_is_one() -> None:
    offers = {flag.name for flag in flags_of("up") if "0 takes a free one" in flag.help}
    assert offers == {flag.name for flag in flags_of("up") if flag.name.endswith("port")} - {"grpc-port"}
    for flag in flags_of("up"):
        if flag.name in offers:
            assert flag.parse("0") == 0


@pytest.mark.parametrize("words", [[], ["frobnicate"], ["serve", "--frobnicate"], ["serve", "--por", "1"]])
def test_unknown_words_end_with_exit_code_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


def test_unparsed_values_can_be_said_again() -> None:
    words = ["m", "--served-model-name", "a", "b", "--no-enable-prefix-caching", "--max-model-len", "4k"]
    arguments = make_parser().parse_args(["up", *words])
    again = [word for flag in flags_of("up") for word in flag.to_argv(flag.given(arguments))]
    assert read("serve", *again) == read("up", *words)


def test_a_variable_stands_for_each_flag() -> None:
    with pytest.raises(UsageError, match="PAGEWIRE_MAX_NUM_SEQS"):
        read("serve", PAGEWIRE_MAX_NUM_SEQS="many")
