"""Tunnels that move much: given to the kernel, still counted, still cut."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import random

import pytest

from egress.connection.tunnel_connection import TunnelConnection
from egress.journal import attempt as attempt_module
from egress.journal.attempt import Attempt
from egress.listener.http_fast_path import FastPath
from egress.net.flow import BUSY_BYTES, Flow
from egress.net.stream import Stream
from egress.net.tunnel import Tunnel
from observability.events import Phase, Reason
from tests.egress.harness import OK, Client, Running, client_hello, echo, http_server, running, set_budget, upstream

pytestmark = pytest.mark.anyio

NAME = "db.example"
SIZE = 12 * 1024 * 1024


def block(port: int, way: str = "tcp") -> dict[str, object]:
    rule = {"host": NAME, "port": port}
    return {"allowed_hosts": [{**rule, "protocol": "tcp"} if way == "tcp" else rule]}


async def connected(proxy: Running, port: int) -> Client:
    client = await proxy.client()
    assert "200" in await client.connect(f"{NAME}:{port}")
    return client


def only_tunnel(proxy: Running) -> TunnelConnection:
    (source,) = proxy.egress.sources
    (live,) = source.live
    assert isinstance(live, TunnelConnection)
    return live


async def pour(client: Client, data: bytes) -> bytes:
    """Send, half-close, and read all that comes back."""
    received = asyncio.ensure_future(client.rest())
    for start in range(0, len(data), 100_000):
        await client.send(data[start : start + 100_000])
    client.writer.write_eof()
    return await received


async def test_megabytes_both_ways_arrive_whole_are_counted_and_end_with_a_half_close() -> None:
    data = random.Random(7).randbytes(SIZE)
    async with upstream(echo) as port, running(block(port), resolve=[f"{NAME}:{port}:127.0.0.1"]) as proxy:
        before = len(os.listdir("/proc/self/fd"))
        client = await connected(proxy, port)
        pouring = asyncio.ensure_future(pour(client, data))
        await proxy.until(lambda: only_tunnel(proxy).tunnel.inward.pipe is not None or pouring.done())
        assert pouring.done() or only_tunnel(proxy).tunnel.inward.pipe is not None
        assert hashlib.sha256(await pouring).digest() == hashlib.sha256(data).digest()
        closed = await proxy.event(lambda event: event.phase is Phase.CLOSED)
        assert (closed.bytes_sent, closed.bytes_received, closed.reason) == (SIZE, SIZE, None)
        client.writer.close()
        await client.writer.wait_closed()
        await proxy.until(lambda: len(os.listdir("/proc/self/fd")) <= before)
        assert proxy.egress.open == 0


async def test_a_busy_tunnel_is_cut_by_a_new_policy() -> None:
    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    async with upstream(floods) as port, running(block(port), resolve=[f"{NAME}:{port}:127.0.0.1"]) as proxy:
        client = await connected(proxy, port)
        reading = asyncio.ensure_future(client.rest())
        await proxy.until(lambda: only_tunnel(proxy).tunnel.inward.pipe is not None)
        proxy.replace({})
        assert len(await reading) >= BUSY_BYTES
        closed = await proxy.event(lambda event: event.phase is Phase.CLOSED)
        assert closed.reason is Reason.POLICY_REVOKED


async def test_a_busy_tunnel_whose_client_stops_reading_idles_out() -> None:
    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    async with upstream(floods) as port, running(block(port), resolve=[f"{NAME}:{port}:127.0.0.1"]) as proxy:
        client = await connected(proxy, port)
        await client.exactly(6 * 1024 * 1024)
        await proxy.until(lambda: only_tunnel(proxy).tunnel.inward.pipe is not None)
        set_budget(proxy.egress, idle_timeout_s=0.1)
        closed = await proxy.event(lambda event: event.phase is Phase.CLOSED)
        assert closed.reason is Reason.IDLE_TIMEOUT


async def test_a_long_transfer_tells_how_far_it_is_and_a_silent_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt_module, "PROGRESS_S", 0.0)
    async with upstream(echo) as port, running(block(port), resolve=[f"{NAME}:{port}:127.0.0.1"]) as proxy:
        client = await connected(proxy, port)
        told = []
        for text, total in ((b"12345", 5), (b"678", 8)):
            await client.send(text)
            await client.exactly(len(text))
            await proxy.until(lambda total=total: proxy.events()[-1].bytes_sent == total)  # type: ignore[misc]
            told.append(proxy.events()[-1])
        assert [(event.bytes_sent, event.bytes_received, event.told_sent) for event in told] == [(5, 5, 0), (8, 8, 5)]
        sweeps = proxy.egress.loop.time() + 2.2
        await proxy.until(lambda: proxy.egress.loop.time() > sweeps)
        client.writer.close()
        closed = await proxy.event(lambda event: event.phase is Phase.CLOSED)
        assert (closed.bytes_sent, closed.told_sent, closed.told_received) == (8, 8, 8)
        assert [event.phase for event in proxy.events()].count(Phase.PROGRESS) == 2


def parts() -> list[type]:
    """Of what connections are made, all that is alive now."""
    kinds = (Attempt, TunnelConnection, Flow, FastPath, Stream, Tunnel)
    return [type(part) for part in gc.get_objects() if isinstance(part, kinds)]


@pytest.mark.parametrize("way", ["tcp", "tls", "http"])
async def test_what_ended_leaves_nothing_for_the_garbage_collector(way: str) -> None:
    """Connections come and go by the thousand: none may wait for a collection, which stops everything."""
    server = http_server(OK) if way == "http" else echo
    async with upstream(server) as port, running(block(port, way), resolve=[f"{NAME}:{port}:127.0.0.1"]) as proxy:
        gc.collect()
        gc.disable()
        others = len(parts())  # what a test that failed before still holds
        try:
            if way == "http":
                client = await proxy.client()
                assert (await client.get(f"http://{NAME}:{port}/"))[1] == b"hello"
            else:
                client = await connected(proxy, port)
                await client.send(client_hello(NAME))
                await client.exactly(100)
            assert len(parts()) > others
            client.writer.close()
            await client.writer.wait_closed()
            await proxy.until(lambda: proxy.egress.open == 0)
            assert len(parts()) == others
        finally:
            gc.enable()
