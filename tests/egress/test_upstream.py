"""The parent proxy: how it is written, whom it carries, and how it is spoken to."""

from __future__ import annotations

import asyncio
import ipaddress

import pytest

from egress.net.poller import Poller
from egress.net.stream import Stream
from egress.net.upstream import dial
from egress.policy.names import IP
from egress.policy.parent_proxy import ParentProxy
from observability.events import Reason
from tests.egress.harness import OK, client_hello, echo, running, set_budget, upstream


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "carried"),
    [
        ("", "a.example", 443, True),
        ("*", "a.example", 443, False),
        ("example", "a.example", 443, False),
        (".example", "example", 443, False),
        ("ample", "a.example", 443, True),
        ("a.example:443", "a.example", 443, False),
        ("a.example:80", "a.example", 443, True),
        ("10.0.0.0/8", "10.1.2.3", 443, False),
        ("10.0.0.0/8", "11.1.2.3", 443, True),
        ("[fd00::1]:443", "fd00::1", 443, False),
        ("fd00::/8", "fd00::1", 443, False),
        ("10.0.0.0/8", "a.example", 443, True),
    ],
)
def test_no_proxy_is_read_as_curl_reads_it(no_proxy: str, host: str, port: int, carried: bool) -> None:
    parent = ParentProxy.parse("http://proxy:3128", no_proxy.split(","))
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        ip = None
    assert parent.carries(host, port, ip) is carried


def test_a_parent_is_read_with_its_credentials_and_refused_without_showing_them() -> None:
    parent = ParentProxy.parse("http://me:p%40ss@proxy.corp:8080")
    assert (parent.host, parent.port, parent.authorization) == ("proxy.corp", 8080, b"Basic bWU6cEBzcw==")
    with pytest.raises(ValueError, match="http://") as refused:
        ParentProxy.parse("https://me:secret@proxy.corp")
    assert "secret" not in str(refused.value)


async def parent_proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers CONNECT with 200 and echoes; answers anything else itself."""
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head)
        if head.startswith(b"CONNECT "):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await echo(reader, writer)
            return
        writer.write(OK)


heads: list[bytes] = []


@pytest.mark.anyio
async def test_connect_and_plain_requests_go_through_the_parent_with_its_credentials() -> None:
    heads.clear()
    async with upstream(parent_proxy) as port:
        block = {"allowed_hosts": ["web.example"]}
        async with running(block, upstream_proxy=f"http://me:pw@127.0.0.1:{port}", no_proxy=["x"]) as proxy:
            client = await proxy.client()
            assert "200" in await client.connect("web.example:443")
            hello = client_hello("web.example")
            await client.send(hello)
            assert await client.exactly(len(hello)) == hello
            other = await proxy.client()
            for _ in range(2):
                assert (await other.get("http://web.example/a?b"))[1] == b"hello"
            denied = await proxy.client()
            assert "403" in await denied.connect("evil.example:443")
    assert heads[0].startswith(b"CONNECT web.example:443 HTTP/1.1\r\n")
    assert heads[1].startswith(b"GET http://web.example:80/a?b HTTP/1.1\r\n")
    assert all(b"Proxy-Authorization: Basic bWU6cHc=\r\n" in head for head in heads)
    assert len(heads) == 3


@pytest.mark.anyio
async def test_a_name_that_leads_inside_is_denied_before_the_parent_is_asked() -> None:
    heads.clear()
    async with upstream(parent_proxy) as port:
        block, names = {"allowed_hosts": ["in.example"]}, {"in.example": ["10.0.0.1"]}
        async with running(block, names=names, upstream_proxy=f"http://127.0.0.1:{port}") as proxy:
            client = await proxy.client()
            assert await client.connect("in.example:443") == "HTTP/1.1 403 address_private"
    assert heads == []


@pytest.mark.anyio
async def test_lookups_before_a_parent_is_asked_are_capped() -> None:
    """Each takes a thread of all backends, and the parent's own name needs one too."""
    heads.clear()
    async with upstream(parent_proxy) as port:
        block = {"allowed_hosts": ["web.example", "10.0.0.1"]}
        async with running(block, upstream_proxy=f"http://127.0.0.1:{port}") as proxy:
            set_budget(proxy.egress, lookups=0)
            client = await proxy.client()
            assert await client.connect("web.example:443") == "HTTP/1.1 429 limit_dns"
            assert heads == []
            literal = await proxy.client()
            assert "200" in await literal.connect("10.0.0.1:443"), "nothing has to be looked up"


@pytest.mark.anyio
async def test_what_a_joined_network_knows_is_reached_there_and_no_parent_hears_of_it() -> None:
    heads.clear()
    address = ipaddress.IPv4Address("10.9.9.9")
    dialled = []

    class Joined:
        async def resolve(self, network: str, host: str) -> tuple[IP, ...]:
            return (address,) if host == "db" else ()

        async def dial(self, poller: Poller, network: str, address: IP, port: int) -> Stream:
            dialled.append((network, address, port))
            return await dial(poller, ipaddress.IPv4Address("127.0.0.1"), database)

    block = {
        "allowed_hosts": [{"host": "db:5432", "protocol": "tcp", "private": True}, "web.example"],
        "join": ["myapp_default"],
    }
    async with upstream(echo) as database, upstream(parent_proxy) as port:
        async with running(block, upstream_proxy=f"http://127.0.0.1:{port}") as proxy:
            proxy.egress.dialer.networks = Joined()
            client = await proxy.client()
            assert "200" in await client.connect("db:5432")
            await client.send(b"select 1")
            assert await client.exactly(8) == b"select 1"
            assert (dialled, heads) == ([("myapp_default", address, 5432)], [])
            other = await proxy.client()
            assert "200" in await other.connect("web.example:443")
            assert len(heads) == 1


@pytest.mark.anyio
async def test_a_parent_that_refuses_is_502() -> None:
    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    async with upstream(refuses) as port:
        async with running({"allowed_hosts": ["web.example"]}, upstream_proxy=f"http://127.0.0.1:{port}") as proxy:
            client = await proxy.client()
            assert await client.connect("web.example:443") == "HTTP/1.1 502 upstream_proxy_failed"
            assert proxy.events()[-1].reason is Reason.UPSTREAM_PROXY_FAILED
