"""The HTTP door with TLS, and the translator as a client of a gRPC door with TLS."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import httpx
import pytest
from certificates import LONG_AGO, Authority, authority
from fakes import FakeEngine, serve
from tls_translator import Clock, translating

from gate.certificates import CertificateError, CertificateFiles
from gate.watched_file import WatchedFiles
from pagewire.channel import tls_credentials
from server.tls import server_credentials
from translator.tls import HttpTls

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.check("S08")


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return authority(tmp_path / "ours")


@pytest.fixture
def others(tmp_path: Path) -> Authority:
    return authority(tmp_path / "others")


async def live(port: int, context: ssl.SSLContext) -> int:
    async with httpx.AsyncClient(verify=context, timeout=20) as client:
        return (await client.get(f"https://127.0.0.1:{port}/health/live")).status_code


def trusting(roots: Path, client: CertificateFiles | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(roots))
    if client is not None:
        context.load_cert_chain(client.chain, client.key)
    return context


async def test_who_trusts_the_authority_is_let_in_and_others_are_not(
    ours: Authority, others: Authority
) -> None:
    async with translating(HttpTls(ours.issue("server"))) as port:
        assert await live(port, trusting(ours.roots)) == 200
        with pytest.raises(httpx.ConnectError):
            await live(port, trusting(others.roots))
        async with httpx.AsyncClient(timeout=20) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(f"http://127.0.0.1:{port}/health/live")


async def test_an_expired_certificate_is_not_trusted(ours: Authority) -> None:
    async with translating(HttpTls(ours.issue("server", not_after=LONG_AGO))) as port:
        with pytest.raises(httpx.ConnectError, match="expired"):
            await live(port, trusting(ours.roots))


async def test_old_versions_of_tls_are_refused(ours: Authority) -> None:
    tls = HttpTls(ours.issue("server"))
    assert tls.context.minimum_version == ssl.TLSVersion.TLSv1_2
    async with translating(tls) as port:
        context = trusting(ours.roots)
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx.ConnectError):
            await live(port, context)


async def test_clients_show_certificates_where_they_are_required(ours: Authority, others: Authority) -> None:
    files = ours.issue("server", authorities=ours.roots)
    good, bad, old = (
        ours.issue("client", "client"),
        others.issue("client", "client"),
        ours.issue("old", "client", not_after=LONG_AGO),
    )
    async with translating(HttpTls(files)) as port:
        assert await live(port, trusting(ours.roots, good)) == 200
        for client in (None, bad, old):
            with pytest.raises(httpx.TransportError):
                await live(port, trusting(ours.roots, client))
    async with translating(HttpTls(files, "optional")) as port:
        assert await live(port, trusting(ours.roots)) == 200
        with pytest.raises(httpx.TransportError):
            await live(port, trusting(ours.roots, bad))


async def test_a_new_certificate_is_shown_without_a_restart(ours: Authority, others: Authority) -> None:
    files = ours.issue("server")
    tls = HttpTls(files, watched=WatchedFiles(files.paths, Clock()))
    async with translating(tls) as port:

        async def shown() -> str:
            tls.refresh()  # as the server does ten times a second
            return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))

        before = await shown()
        ours.issue("server")
        after = await shown()
        assert before != after == files.chain.read_text()
        files.key.write_bytes(others.issue("server").key.read_bytes())
        assert await shown() == after
        assert await live(port, trusting(ours.roots)) == 200


async def test_open_streams_go_on_when_certificates_are_renewed(ours: Authority) -> None:
    files = ours.issue("server")
    tls = HttpTls(files, watched=WatchedFiles(files.paths, Clock()))
    engine = FakeEngine(manual=True)
    body = {"model": "fake-model", "prompt": "hi", "max_tokens": 2, "stream": True}
    async with (
        serve(engine) as server,
        translating(tls, server.target) as port,
        httpx.AsyncClient(verify=trusting(ours.roots), timeout=60) as client,
    ):
        posts = [client.post(f"https://127.0.0.1:{port}/v1/completions", json=body) for _ in range(4)]
        answers = asyncio.gather(*posts)
        await engine.until(num_live=4)
        ours.issue("server")
        tls.refresh()
        shown = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
        assert shown == files.chain.read_text()
        engine.step()
        engine.step()
        for answer in await answers:
            assert answer.text.endswith("data: [DONE]\n\n")


def test_files_that_do_not_belong_together_are_refused(ours: Authority, others: Authority) -> None:
    with pytest.raises(CertificateError, match="cannot be used"):
        HttpTls(CertificateFiles(ours.issue("server").chain, others.issue("server").key))


async def test_the_translator_trusts_the_model_server_by_its_roots(
    ours: Authority, others: Authority
) -> None:
    files = ours.issue("server", authorities=ours.roots)
    client = ours.issue("translator", "translator")
    async with serve(FakeEngine(), credentials=lambda: server_credentials(files)) as server:
        for roots, status in ((ours.roots, 200), (others.roots, 503)):
            credentials = tls_credentials(roots, client.chain, client.key)
            async with translating(None, server.target, credentials) as port, httpx.AsyncClient() as http:
                answer = await http.get(f"http://127.0.0.1:{port}/v1/models", timeout=20)
                assert answer.status_code == status
