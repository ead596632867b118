"""Where spans go, and what is said where they cannot."""

from __future__ import annotations

import pytest

import cli.traces
from cli.__main__ import main
from cli.traces import collector


@pytest.mark.parametrize(
    "url", ["http://localhost:4317", "https://collector.example/v1/traces", "grpc://[::1]:4317"]
)
def test_a_collector_is_a_url(url: str) -> None:
    assert collector(url) == url


@pytest.mark.parametrize("text", ["", "localhost:4317", "http://", "ftp://localhost", "4317"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a URL such as http://localhost:4317"):
        collector(text)


@pytest.mark.parametrize("command", ["serve", "translate", "up"])
def test_without_the_packages_the_flag_is_refused(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli.traces, "_PACKAGES", ("no.such.package",))
    assert main([command, "--otlp-traces-endpoint", "http://localhost:4317"]) == 2
    said = capsys.readouterr().err
    assert "--otlp-traces-endpoint: expected an installation with the extra otel" in said
    assert "deploy/install.sh VENV server,otel" in said


def test_the_standard_variable_turns_traces_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "nowhere")
    assert main(["translate"]) == 2
    assert "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: expected a URL" in capsys.readouterr().err


def test_a_protocol_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon")
    with pytest.raises(ValueError, match="grpc, http/protobuf, not 'carrier-pigeon'"):
        collector("http://localhost:4317")
