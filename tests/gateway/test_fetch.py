"""Requests of the gateway's own to servers on the internet: bounded, without redirects, through the host's proxy."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from gateway.fetch import MAX_BODY, fetch
from tests.serving import serving

pytestmark = pytest.mark.anyio
Answering = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(answering: Answering, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that reads one head and lets `answering` write the rest."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await answering(head, writer)

    async with asyncio.timeout(60), serving(serve, context) as port:
        yield port


class Recorder:
    """Answers every request alike and notes its head."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.heads: list[bytes] = []

    async def __call__(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        self.heads.append(head)
        writer.write(self.answer)
        await writer.drain()


def response(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    seen = Recorder(response(b"", "302 Found", "Location: http://127.0.0.1:1/"))
    async with listening(seen) as port:
        answer = await fetch(f"http://127.0.0.1:{port}/keys")
    assert (answer.status, answer.body, len(seen.heads)) == (302, b"", 1)


async def test_a_body_is_taken_up_to_the_bound_and_not_above() -> None:
    async with listening(Recorder(response(b"x" * MAX_BODY))) as port:
        assert len((await fetch(f"http://127.0.0.1:{port}/")).body) == MAX_BODY
    async with listening(Recorder(response(b"x" * (MAX_BODY + 1)))) as port:
        with pytest.raises(OSError, match="more than"):
            await fetch(f"http://127.0.0.1:{port}/")


async def test_a_server_that_never_answers_costs_the_timeout() -> None:
    async def silent(_: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with listening(silent) as port:
        with pytest.raises(OSError, match=r"did not answer within 0\.2 s"):
            await fetch(f"http://127.0.0.1:{port}/", timeout_s=0.2)


async def test_the_hosts_proxy_is_used_and_no_proxy_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, origin = Recorder(response(b"proxied")), Recorder(response(b"direct"))
    async with listening(proxy) as proxy_port, listening(origin) as port:
        monkeypatch.setenv("http_proxy", f"127.0.0.1:{proxy_port}")
        assert (await fetch("http://issuer.example/keys")).body == b"proxied"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert (await fetch(f"http://127.0.0.1:{port}/keys")).body == b"direct"
    assert proxy.heads[0].startswith(b"GET http://issuer.example/keys ")


async def test_a_password_is_sent_once_and_stands_in_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password of-another-program\n")
    monkeypatch.setenv("NETRC", str(netrc))
    seen = Recorder(response(b"{}"))
    async with listening(seen) as port:
        await fetch(f"http://127.0.0.1:{port}/")
        await fetch(f"http://127.0.0.1:{port}/", form={"a": "b"}, basic=("app", "s3cret"))
    assert b"authorization" not in seen.heads[0].lower()
    assert b"Authorization: Basic YXBwOnMzY3JldA==" in seen.heads[1]
    assert seen.heads[1].startswith(b"POST / ")
    with pytest.raises(OSError, match="127") as caught:
        await fetch(f"http://127.0.0.1:{port}/", form={"a": "b"}, basic=("app", "s3cret"))
    assert "s3cret" not in str(caught.value)


async def test_a_certificate_of_an_unknown_authority_is_refused_and_one_of_the_given_context_is_taken() -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with listening(Recorder(response(b"keys")), server) as port:
        url = f"https://127.0.0.1:{port}/"
        with pytest.raises(OSError, match="certificate"):
            await fetch(url)
        assert (await fetch(url, context=trusting)).body == b"keys"


@pytest.mark.parametrize("url", ["nonsense", "http://", "ftp://a/", "http://a b/", "http://127.0.0.1:99999/"])
async def test_what_is_no_http_url_is_an_error_like_any_other(url: str) -> None:
    with pytest.raises(OSError):
        await fetch(url)
