"""The gRPC door with TLS: who is let in, who is not, and how its certificate is renewed."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from certificates import LONG_AGO, Authority, authority
from fakes import FakeEngine, serve
from scarce_descriptors import no_descriptors
from tls_translator import Clock

from gate.certificates import CertificateError, CertificateFiles, WatchedCertificates
from gate.watched_file import WatchedFiles
from pagewire import AsyncClient, UnavailableError
from pagewire.channel import tls_credentials
from server.tls import server_credentials

if TYPE_CHECKING:
    from pathlib import Path

    import grpc


pytestmark = pytest.mark.check("S08")


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return authority(tmp_path / "ours")


@pytest.fixture
def others(tmp_path: Path) -> Authority:
    return authority(tmp_path / "others")


async def ask(target: str, credentials: grpc.ChannelCredentials | None) -> str:
    async with AsyncClient(target, credentials=credentials, timeout=20) as client:
        return (await client.generate("hi", max_tokens=1)).started.model


async def test_a_client_that_trusts_the_authority_is_let_in(ours: Authority) -> None:
    async with serve(FakeEngine(), credentials=lambda: server_credentials(ours.issue("server"))) as server:
        assert await ask(server.target, tls_credentials(ours.roots)) == "fake-model"
        assert await ask(server.target.replace("127.0.0.1", "localhost"), tls_credentials(ours.roots))


async def test_clear_text_wrong_roots_and_wrong_names_are_not(ours: Authority, others: Authority) -> None:
    engine = FakeEngine()
    async with serve(engine, credentials=lambda: server_credentials(ours.issue("server"))) as server:
        for credentials in (None, tls_credentials(others.roots)):
            with pytest.raises(UnavailableError):
                await ask(server.target, credentials)
    assert not engine.requests
    elsewhere = ours.issue("server", "example.org")
    async with serve(engine, credentials=lambda: server_credentials(elsewhere)) as server:
        with pytest.raises(UnavailableError):
            await ask(server.target, tls_credentials(ours.roots))
    assert not engine.requests


async def test_an_expired_certificate_is_not_trusted(ours: Authority) -> None:
    files = ours.issue("server", not_after=LONG_AGO)
    async with serve(FakeEngine(), credentials=lambda: server_credentials(files)) as server:
        with pytest.raises(UnavailableError):
            await ask(server.target, tls_credentials(ours.roots))


async def test_clients_must_show_a_certificate_where_they_are_asked_for_one(
    ours: Authority, others: Authority
) -> None:
    files = ours.issue("server", authorities=ours.roots)
    good, bad, old = (
        ours.issue("client", "client"),
        others.issue("client", "client"),
        ours.issue("old", "client", not_after=LONG_AGO),
    )
    engine = FakeEngine()
    async with serve(engine, credentials=lambda: server_credentials(files)) as server:
        for client in (None, bad, old):
            shown = (client.chain, client.key) if client is not None else ()
            with pytest.raises(UnavailableError):
                await ask(server.target, tls_credentials(ours.roots, *shown))
        assert not engine.requests
        assert await ask(server.target, tls_credentials(ours.roots, good.chain, good.key))


def shake_hands(target: str, context: ssl.SSLContext) -> str | None:
    host, _, port = target.rpartition(":")
    with (
        socket.create_connection((host, int(port)), 20) as connection,
        context.wrap_socket(connection, server_hostname=host) as wrapped,
    ):
        return wrapped.version()


async def test_old_versions_of_tls_are_refused(ours: Authority) -> None:
    context = ssl.create_default_context(cafile=str(ours.roots))
    context.set_alpn_protocols(["h2"])
    old = ssl.create_default_context(cafile=str(ours.roots))
    old.set_alpn_protocols(["h2"])
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serve(FakeEngine(), credentials=lambda: server_credentials(ours.issue("server"))) as server:
        assert await _in_thread(shake_hands, server.target, context) in ("TLSv1.2", "TLSv1.3")
        with pytest.raises(ssl.SSLError):
            await _in_thread(shake_hands, server.target, old)


def shown_by(target: str) -> str:
    host, _, port = target.rpartition(":")
    return ssl.get_server_certificate((host, int(port)))


async def test_a_new_certificate_is_shown_and_open_streams_go_on(ours: Authority) -> None:
    files = ours.issue("server")
    engine = FakeEngine(manual=True)

    def watched() -> WatchedFiles:
        return WatchedFiles(files.paths, Clock())

    async with (
        serve(engine, credentials=lambda: server_credentials(files, watched())) as server,
        AsyncClient(server.target, credentials=tls_credentials(ours.roots)) as client,
    ):
        streams = [client.stream("hi", max_tokens=2) for _ in range(4)]
        await engine.until(num_live=4)
        before = await _in_thread(shown_by, server.target)
        assert before == await _in_thread(shown_by, server.target)
        ours.issue("server")
        after = await _in_thread(shown_by, server.target)
        assert after != before
        assert after == files.chain.read_text()
        files.chain.write_text("nonsense")
        assert await _in_thread(shown_by, server.target) == after
        engine.step()
        engine.step()
        for stream in streams:
            assert [event async for event in stream][-1].HasField("finished")


def test_certificates_that_cannot_be_read_for_a_moment_are_read_later(
    ours: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files = ours.issue("server")
    now_s = 0.0
    renewals = WatchedCertificates(files, WatchedFiles(files.paths, lambda: now_s))
    ours.issue("server")
    for _ in range(2):
        now_s += 20.0
        with no_descriptors():
            assert renewals.renew(files.chain.read_text) is None
    now_s += 20.0
    assert renewals.renew(files.chain.read_text) == files.chain.read_text()
    now_s += 20.0
    assert renewals.renew(files.chain.read_text) is None
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_certificates_that_are_replaced_while_they_are_read_are_read_again(ours: Authority) -> None:
    files = ours.issue("server")
    now_s = 0.0
    renewals = WatchedCertificates(files, WatchedFiles(files.paths, lambda: now_s))
    ours.issue("server")
    now_s += 20.0
    assert renewals.renew((files.chain.parent / "gone").read_bytes) is None
    now_s += 20.0
    assert renewals.renew(files.chain.read_text) == files.chain.read_text()


async def _in_thread(work: Any, *arguments: Any) -> Any:
    return await asyncio.to_thread(work, *arguments)


def test_files_that_cannot_be_used_are_refused(ours: Authority, others: Authority, tmp_path: Path) -> None:
    good, other = ours.issue("server"), others.issue("server")
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    for files in (
        CertificateFiles(good.chain, other.key),
        CertificateFiles(nonsense, good.key),
        CertificateFiles(good.chain, tmp_path / "nowhere"),
        CertificateFiles(good.chain, good.key, nonsense),
    ):
        with pytest.raises(CertificateError, match="cannot be used"):
            server_credentials(files)
