"""What is said of files for TLS that cannot be used, and of servers that are not trusted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from certificates import Authority, authority
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from tls_translator import translating

from cli.__main__ import main
from cli.tls import probe_context
from cli.up import served_model
from gate.certificates import CertificateError, CertificateFiles
from translator.tls import HttpTls

if TYPE_CHECKING:
    from pathlib import Path

LISTENERS = [
    (["up", "no-model"], ""),
    (["up", "no-model"], "grpc-"),
    (["translate"], ""),
    (["translate", "-asc", "2"], ""),
    (["serve", "no-model"], "grpc-"),
]
CLIENTS = [
    ["up", "no-model"],
    ["translate"],
    ["chat", "hi"],
    ["top", "--once"],
    ["bench", "serve"],
    ["bench", "serve", "--target", "https://127.0.0.1:1", "--bench-model", "m"],
    ["health"],
    ["health", "--target", "https://127.0.0.1:1"],
]


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return authority(tmp_path / "ours")


@pytest.fixture
def no_pem(tmp_path: Path) -> Path:
    path = tmp_path / "no.pem"
    path.write_text("not PEM\n")
    return path


def encrypted(key: Path) -> Path:
    private = load_pem_private_key(key.read_bytes(), None)
    locked = BestAvailableEncryption(b"secret")
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    return key


@pytest.mark.parametrize(("command", "prefix"), LISTENERS)
def test_a_listener_with_files_that_cannot_be_used_is_not_started(
    command: list[str], prefix: str, ours: Authority, no_pem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, other = ours.issue("server"), ours.issue("other").key
    chain, key, roots = (f"--{prefix}ssl-{name}" for name in ("certfile", "keyfile", "ca-certs"))

    def said(*words: str | Path) -> str:
        assert main([*command, chain, *map(str, words)], {}) == 2
        return capsys.readouterr().err

    start = f"pagewire {command[0]}: {chain}: {good.chain}, {other}: cannot be used: "
    mismatch = said(good.chain, key, other)
    assert mismatch.startswith(start)
    assert "key values mismatch" in mismatch
    assert said(good.chain, key, encrypted(other)) == f"{start}the key is encrypted\n"
    assert f"{chain}: {no_pem}, {good.key}: cannot be used: " in said(no_pem, key, good.key)
    assert f"{roots}: {no_pem}: cannot be used: " in said(good.chain, key, good.key, roots, no_pem)


@pytest.mark.parametrize("command", CLIENTS)
def test_a_client_with_files_that_cannot_be_used_does_not_call(
    command: list[str], ours: Authority, no_pem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, other = ours.issue("client", "client"), ours.issue("other", "other").key
    chain, key, roots = "--grpc-client-certfile", "--grpc-client-keyfile", "--grpc-ca-certs"

    def said(*words: str | Path) -> str:
        assert main([*command, *map(str, words)], {}) == 2
        return capsys.readouterr().err

    assert f"{roots}: {no_pem}: cannot be used: " in said(roots, no_pem)
    pair = f"{chain}: {good.chain}, {other}: cannot be used: "
    assert pair in said(roots, ours.roots, chain, good.chain, key, other)
    assert f"{pair}the key is encrypted" in said(roots, ours.roots, chain, good.chain, key, encrypted(other))
    assert f"{chain}: expected {key} beside it" in said(roots, ours.roots, chain, good.chain)
    assert f"{chain}: expected {roots} beside it" in said(chain, good.chain, key, good.key)


async def test_health_says_why_it_cannot_connect(
    ours: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = authority(tmp_path / "others")

    async def said(target: str, roots: Path) -> str:
        words = ["health", "--target", target, "--grpc-ca-certs", str(roots)]
        assert await asyncio.to_thread(main, words, {}) == 1
        return capsys.readouterr().err

    async with translating(HttpTls(ours.issue("server"))) as port:
        url = f"https://127.0.0.1:{port}"
        assert "certificate verify failed" in await said(url, others.roots)
        assert await said(url, ours.roots) == (f"{url}/health/ready answers with 503\n{url} is not ready\n")
        words = ["health", "--live", "--target", url, "--grpc-ca-certs", str(ours.roots)]
        assert await asyncio.to_thread(main, words, {}) == 0
        assert capsys.readouterr().err == f"{url} is live\n"
    assert "Connection refused" in await said("https://127.0.0.1:1", ours.roots)


def test_files_that_are_being_replaced_do_not_end_the_probe(ours: Authority) -> None:
    files = CertificateFiles(ours.issue("server").chain, ours.issue("other").key)
    with pytest.raises(CertificateError, match="cannot be used"):
        probe_context(files)
    assert served_model("https://127.0.0.1:1", None, files) is None
    files.chain.unlink()
    assert served_model("https://127.0.0.1:1", None, files) is None
