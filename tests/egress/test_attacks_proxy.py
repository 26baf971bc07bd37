"""What a hostile backend, or an allowed server that helps it, may try at the proxy."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from observability.events import Decision, Phase, Reason
from tests.egress.harness import OK, client_hello, echo, http_server, running, upstream

pytestmark = pytest.mark.anyio

NAME = "web.example.com"


def allow(port: int, **more: object) -> dict[str, object]:
    return {"allowed_hosts": [f"{NAME}:{port}"], **more}


def to(port: int) -> list[str]:
    return [f"{NAME}:{port}:127.0.0.1"]


async def test_a_tunnel_opened_before_a_revocation_and_used_after_it_is_cut() -> None:
    async with upstream(echo) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        assert "200" in await client.connect(f"{NAME}:{port}")
        proxy.replace({}, resolve=to(port))
        await client.send(client_hello(NAME))
        assert await client.rest() == b""
        event = await proxy.event(lambda event: event.reason is Reason.POLICY_REVOKED)
        assert (event.phase, event.decision) == (Phase.DECIDED, Decision.DENY)
        assert not any(event.decision is Decision.ALLOW for event in proxy.events())


async def test_what_follows_a_feigned_101_of_a_websocket_is_never_read_by_the_parent_as_requests() -> None:
    """An allowed server that helps answers 101 through a parent that knows no upgrades and goes on reading requests."""
    heads: list[bytes] = []

    async def parent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            heads.append(head)
            if head.startswith(b"CONNECT "):
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                await reader.readuntil(b"\r\n\r\n")
                writer.write(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
                await echo(reader, writer)
                return
            writer.write(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")

    async with upstream(parent) as port:
        async with running({"allowed_hosts": [NAME]}, upstream_proxy=f"http://127.0.0.1:{port}") as proxy:
            client = await proxy.client()
            await client.send(
                f"GET http://{NAME}/ HTTP/1.1\r\nHost: {NAME}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode()
            )
            assert "101" in await client.head()
            smuggled = b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"
            await client.send(smuggled)
            assert await client.exactly(len(smuggled)) == smuggled
    assert [head.split(b" ")[:2] for head in heads] == [[b"CONNECT", f"{NAME}:80".encode()]]


async def test_a_kept_connection_to_a_parent_never_serves_a_request_that_goes_straight() -> None:
    parent_heads: list[bytes] = []
    seen: list[bytes] = []
    async with upstream(http_server(OK, parent_heads)) as port, upstream(http_server(OK, seen)) as site:
        block = {"allowed_hosts": [{"host": "127.0.0.1", "port": site}]}
        async with running(block, upstream_proxy=f"http://me:pw@127.0.0.1:{port}") as proxy:
            client = await proxy.client()
            await client.get(f"http://127.0.0.1:{site}/")
            proxy.replace(block)
            await client.get(f"http://127.0.0.1:{site}/")
            proxy.replace(block, upstream_proxy=f"http://me:pw@127.0.0.1:{port}")
            await client.get(f"http://127.0.0.1:{site}/")
    assert len(parent_heads) == 2
    assert seen[0].startswith(b"GET / ")
    assert b"Proxy-Authorization" not in seen[0]


async def test_options_for_a_whole_server_reaches_a_parent_with_a_clean_authority() -> None:
    heads: list[bytes] = []
    async with upstream(http_server(OK, heads)) as port:
        async with running({"allowed_hosts": [NAME]}, upstream_proxy=f"http://127.0.0.1:{port}") as proxy:
            client = await proxy.client()
            await client.get(f"http://{NAME}", method="OPTIONS")
    assert heads[0].startswith(f"OPTIONS http://{NAME}:80 HTTP/1.1\r\n".encode())


async def test_a_parent_that_answers_trace_itself_shows_nobody_its_password() -> None:
    """With `Max-Forwards: 0` the parent's own answer repeats the request that it got (RFC 9110 9.3.8)."""

    async def parent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            connect = head.startswith(b"CONNECT ")
            body = b"" if connect else head
            writer.write(
                b"HTTP/1.1 200 OK\r\n" + (b"" if connect else b"Content-Length: %d\r\n" % len(body)) + b"\r\n" + body
            )

    async with upstream(parent) as port:
        async with running({"allowed_hosts": [NAME]}, upstream_proxy=f"http://me:pw@127.0.0.1:{port}") as proxy:
            client = await proxy.client()
            _, body = await client.get(f"http://{NAME}/", "Max-Forwards: 0", method="TRACE")
            assert body.startswith(b"TRACE / HTTP/1.1\r\n")
            assert b"authorization" not in body.lower()


async def test_a_client_that_leaves_while_the_parent_is_silent_leaves_nothing_behind() -> None:
    asked, ended = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        ended.set()

    async with upstream(silent) as port:
        async with running({"allowed_hosts": [NAME]}, upstream_proxy=f"http://127.0.0.1:{port}") as proxy:
            client = await proxy.client()
            await client.send(f"CONNECT {NAME}:443 HTTP/1.1\r\nHost: {NAME}:443\r\n\r\n".encode())
            async with asyncio.timeout(5):
                await asked.wait()
                client.writer.transport.abort()
                await ended.wait()


async def test_requests_pipelined_behind_an_allowed_one_are_each_decided() -> None:
    seen: list[bytes] = []
    async with upstream(http_server(OK, seen)) as port, running(allow(port), resolve=to(port)) as proxy:
        good = f"GET http://{NAME}:{port}/ HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n".encode()
        for bad in (
            b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            f"GET http://{NAME}:{port}/x HTTP/1.1\r\nHost: evil.example\r\n\r\n".encode(),
            b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        ):
            answer = await proxy.ask(good + bad)
            assert answer.startswith(b"HTTP/1.1 200")
            assert b"HTTP/1.1 40" in answer
    assert len(seen) == 3
    assert not any(b"evil" in head for head in seen)


@pytest.mark.parametrize(
    "inner",
    [
        b"GET http://evil.example/ HTTP/1.1\r\nHost: web.example.com:%d\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nHost: web.example.com:%d\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: web.example.com:%d\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: web.example.com:%d@evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:web.example.com:%d\x00evil.example\r\n\r\n",
        b"GET //evil.example/ HTTP/1.1\r\nhost: web.example.com.evil.example:%d\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n%.0d",
    ],
)
async def test_inside_a_connect_nothing_names_another_host(inner: bytes) -> None:
    seen: list[bytes] = []
    async with upstream(http_server(OK, seen)) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        await client.connect(f"{NAME}:{port}")
        await client.send(inner % port)
        assert b"HTTP/1.1 200" not in await client.rest()
    assert seen == []


async def test_a_second_response_that_a_server_smuggles_never_answers_another_request() -> None:
    """Each client connection has upstream connections of its own, and none is used again with bytes left over."""

    async def smuggles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
        while head := await reader.readuntil(b"\r\n\r\n"):
            assert head
            writer.write(OK)

    async with upstream(smuggles) as port, running(allow(port), resolve=to(port)) as proxy:
        one, two = await proxy.client(), await proxy.client()
        for client in (one, two, one, two):
            assert (await client.get(f"http://{NAME}:{port}/"))[1] == b"hello"


async def test_chunk_extensions_and_a_trailer_that_smuggles_are_not_passed_on() -> None:
    seen = bytearray()

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while b"0\r\n\r\n" not in seen and (data := await reader.read(65536)):
            seen.extend(data)
        writer.write(OK)

    body = b'5;a="\x80\xff"\r\nhello\r\n0;x\r\nHost: evil.example\r\nContent-Length: 9\r\n\r\n'
    async with upstream(record) as port, running(allow(port), resolve=to(port)) as proxy:
        head = f"POST http://{NAME}:{port}/ HTTP/1.1\r\nHost: {NAME}:{port}\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = await proxy.ask(head.encode() + body)
        assert b"200 OK" in answer
    assert bytes(seen).endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
