"""Policies that change under live connections, and backends that attack."""

from __future__ import annotations

import asyncio
import contextlib
import math
import resource
import socket
import struct
from ipaddress import IPv4Address

import pytest

from egress.connection.tunnel_connection import TunnelConnection
from egress.listener.direct import serve_direct
from egress.listener.http_fast_path import serve_proxy
from egress.net import flow
from egress.service.control import PoliciesRefused
from egress.service.server import Serve
from observability.events import Phase, Reason
from tests.egress.harness import OK, Client, Running, client_hello, echo, http_server, running, set_budget, upstream

pytestmark = pytest.mark.anyio

NAME = "db.example.com"


def block(port: int, **more: object) -> dict[str, object]:
    return {"allowed_hosts": [{"host": NAME, "port": port, "protocol": "tcp"}], **more}


async def tunnel(proxy: Running, port: int) -> Client:
    client = await proxy.client()
    assert "200" in await client.connect(f"{NAME}:{port}")
    await client.send(b"x")
    assert await client.exactly(1) == b"x"
    return client


async def test_a_tunnel_that_a_new_policy_forbids_is_cut_and_says_why() -> None:
    async with upstream(echo) as port, running(block(port), resolve=[f"{NAME}:{port}:127.0.0.1"]) as proxy:
        client = await tunnel(proxy, port)
        proxy.replace({"allowed_hosts": ["other.example.com"]}, resolve=[f"{NAME}:{port}:127.0.0.1"])
        assert await client.rest() == b""
        closed = await proxy.event(lambda event: event.phase is Phase.CLOSED)
        assert closed.reason is Reason.POLICY_REVOKED
        assert (closed.bytes_sent, closed.bytes_received) == (1, 1)


async def test_a_tunnel_that_a_new_policy_still_allows_goes_on() -> None:
    async with upstream(echo) as port, running(block(port), resolve=[f"{NAME}:{port}:127.0.0.1"]) as proxy:
        client = await tunnel(proxy, port)
        proxy.replace(block(port, mode="report"), resolve=[f"{NAME}:{port}:127.0.0.1"])
        await client.send(b"y")
        assert await client.exactly(1) == b"y"


async def test_a_request_under_way_is_cut_by_a_new_policy() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    resolve = ["web.example.com:{}:127.0.0.1"]
    async with upstream(silent) as port:
        resolve = [f"web.example.com:{port}:127.0.0.1"]
        async with running({"allowed_hosts": [f"web.example.com:{port}"]}, resolve=resolve) as proxy:
            client = await proxy.client()
            await client.send(
                f"GET http://web.example.com:{port}/ HTTP/1.1\r\nHost: web.example.com:{port}\r\n\r\n".encode()
            )
            await proxy.event(lambda event: event.phase is Phase.DECIDED)
            proxy.replace({}, resolve=resolve)
            assert await client.rest() == b""
            assert (await proxy.event(lambda e: e.phase is Phase.CLOSED)).reason is Reason.POLICY_REVOKED


async def test_a_bad_policy_is_refused_whole_and_the_old_one_stays() -> None:
    async with upstream(echo) as port, running(block(port), resolve=[f"{NAME}:{port}:127.0.0.1"]) as proxy:
        before = proxy.egress.backends["standalone"].policy
        with pytest.raises(PoliciesRefused) as refused:
            proxy.egress.apply({"backends": {"standalone": {}, "other": {"allowed_hosts": ["a b"], "x": 1}}})
        assert {problem["backend"] for problem in refused.value.problems} == {"other"}
        assert len(refused.value.problems) == 2
        assert proxy.egress.backends["standalone"].policy is before
        await tunnel(proxy, port)


async def test_bad_surroundings_are_refused_too() -> None:
    async with running({}) as proxy:
        with pytest.raises(PoliciesRefused, match="HOST:PORT:ADDRESS"):
            proxy.egress.apply({"backends": {}, "surroundings": {"resolve": ["a:b"]}})


async def test_a_peer_that_never_reads_costs_bounded_memory_and_no_other_client_waits() -> None:
    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    async with upstream(floods) as port, upstream(http_server(OK)) as other:
        policy = block(port)
        policy["allowed_hosts"] = [*policy["allowed_hosts"], f"web.example.com:{other}"]  # type: ignore[misc]
        resolve = [f"{NAME}:{port}:127.0.0.1", f"web.example.com:{other}:127.0.0.1"]
        async with running(policy, resolve=resolve) as proxy:
            sock = socket.create_connection(("127.0.0.1", proxy.port))
            with sock:
                sock.sendall(f"CONNECT {NAME}:{port} HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\nx".encode())
                client = await proxy.client()
                for _ in range(20):
                    assert (await client.get(f"http://web.example.com:{other}/"))[1] == b"hello"
                (source,) = proxy.egress.sources
                flows = [live.tunnel.inward for live in source.live if hasattr(live, "tunnel")]
                assert len(flows) == 1
                assert len(flows[0].rest) < 2_000_000


async def test_ten_slow_heads_do_not_hold_up_another_client() -> None:
    async with upstream(http_server(OK)) as port:
        resolve = [f"web.example.com:{port}:127.0.0.1"]
        async with running({"allowed_hosts": [f"web.example.com:{port}"]}, resolve=resolve) as proxy:
            set_budget(proxy.egress, head_timeout_s=0.5)
            slow = [await proxy.client() for _ in range(10)]
            for client in slow:
                await client.send(b"GET http://web.example.com/ HTTP/1.1\r\nX: ")
            good = await proxy.client()
            assert (await good.get(f"http://web.example.com:{port}/"))[1] == b"hello"
            for client in slow:
                assert (await client.rest()).startswith(b"HTTP/1.1 408")


async def test_full_descriptor_tables_are_survived() -> None:
    async with upstream(echo) as port, running(block(port), resolve=[f"{NAME}:{port}:127.0.0.1"]) as proxy:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        held: list[socket.socket] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
        try:
            with contextlib.suppress(OSError):
                while True:
                    held.append(socket.socket())
            room = held.pop()
            room.close()
            outside = socket.socket()
            held.append(outside)
            outside.setblocking(False)
            outside.connect_ex(("127.0.0.1", proxy.port))
            await proxy.until(lambda: proxy.egress.shed > 0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for sock in held:
                sock.close()
        await tunnel(proxy, port)


async def test_a_thousand_connections_come_and_go_without_a_trace() -> None:
    async with upstream(echo) as port, running(block(port), resolve=[f"{NAME}:{port}:127.0.0.1"]) as proxy:
        for _ in range(10):
            async with asyncio.TaskGroup() as tasks:
                for _ in range(100):
                    tasks.create_task(come_and_go(proxy.port, port))
        await proxy.until(lambda: proxy.egress.open == 0)
        (source,) = proxy.egress.sources
        assert not source.live
        assert proxy.egress.backends["standalone"].open == 0
        phases = [event.phase for event in proxy.events()]
        assert phases.count(Phase.DECIDED) == phases.count(Phase.CLOSED)


async def come_and_go(proxy: int, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy)
    writer.write(f"CONNECT {NAME}:{port} HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\nping".encode())
    writer.write_eof()
    async with asyncio.timeout(20):
        assert (await reader.read()).endswith(b"ping")
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_leaves_during_a_lookup_leaves_nothing_behind() -> None:
    class Stuck:
        async def resolve(self, host: str) -> tuple[()]:
            await asyncio.get_running_loop().create_future()
            return ()

        def known(self, host: str) -> tuple[()]:
            return ()

    async with running({"allowed_hosts": ["slow.example"]}) as proxy:
        proxy.egress.dialer.resolver = Stuck()
        client = await proxy.client()
        await client.send(b"CONNECT slow.example:443 HTTP/1.1\r\nHost: slow.example:443\r\n\r\n")
        await proxy.until(lambda: proxy.egress.backends["standalone"].lookups == 1)
        client.writer.transport.abort()
        await proxy.until(lambda: proxy.egress.open == 0)
        assert proxy.egress.backends["standalone"].lookups == 0


async def test_lookups_under_way_are_capped() -> None:
    async with running({"allowed_hosts": [".example"]}, names={"a.example": ["93.184.216.34"]}) as proxy:
        set_budget(proxy.egress, lookups=0)
        client = await proxy.client()
        assert await client.connect("a.example:443") == "HTTP/1.1 429 limit_dns"
        assert proxy.events()[0].reason is Reason.LIMIT_DNS


async def test_many_that_wait_for_one_name_are_one_lookup() -> None:
    """A program that opens its whole pool at once is no flood."""
    asked: list[str] = []
    answered = asyncio.Event()

    class Slow:
        async def resolve(self, host: str) -> tuple[IPv4Address]:
            asked.append(host)
            await answered.wait()
            return (IPv4Address("10.0.0.1"),)

        def known(self, host: str) -> tuple[()]:
            return ()

    async with running({"allowed_hosts": [".example"]}) as proxy:
        proxy.egress.dialer.resolver = Slow()
        (backend,) = proxy.egress.backends.values()
        set_budget(proxy.egress, lookups=2)
        pool = [await proxy.client() for _ in range(5)]
        asking = [asyncio.ensure_future(client.connect("a.example:443")) for client in pool]
        await proxy.until(lambda: len(asked) == 5 or any(task.done() for task in asking))
        asking.append(asyncio.ensure_future((await proxy.client()).connect("b.example:443")))
        await proxy.until(lambda: backend.lookups == 2)
        assert await (await proxy.client()).connect("c.example:443") == "HTTP/1.1 429 limit_dns"
        answered.set()
        assert set(await asyncio.gather(*asking)) == {"HTTP/1.1 403 address_private"}
        assert backend.lookups == 0


async def test_the_end_of_the_process_is_a_reason() -> None:
    async with upstream(echo) as port:
        async with running(block(port), resolve=[f"{NAME}:{port}:127.0.0.1"]) as proxy:
            client = await tunnel(proxy, port)
            await proxy.egress.drain(0)
            assert await client.rest() == b""
            assert (await proxy.event(lambda e: e.phase is Phase.CLOSED)).reason is Reason.SHUTDOWN


async def two_tunnels(proxy: Running, port: int) -> dict[str, Client]:
    """Both to web.example.com, by the name that each shows inside."""
    clients = {name: await proxy.client() for name in ("web.example.com", "other.example.com")}
    for client in clients.values():
        assert "200" in await client.connect(f"web.example.com:{port}")
    return clients


async def test_a_tunnel_that_only_report_carried_for_what_is_inside_ends_with_enforce() -> None:
    """Its host is allowed all the time; the server name inside is another's."""
    async with upstream(echo) as port:
        policy = {"allowed_hosts": [f"web.example.com:{port}"]}
        resolve = [f"web.example.com:{port}:127.0.0.1"]
        async with running({**policy, "mode": "report"}, resolve=resolve) as proxy:
            clients = await two_tunnels(proxy, port)
            for name, client in clients.items():
                await client.send(client_hello(name))
                assert await client.exactly(10)
            proxy.replace(policy, resolve=resolve)
            assert await clients["other.example.com"].rest()
            event = await proxy.event(lambda event: event.phase is Phase.CLOSED)
            assert event.reason is Reason.POLICY_REVOKED
            await clients["web.example.com"].send(b"still")
            while not (await clients["web.example.com"].exactly(1) == b"l"):
                pass


async def test_a_request_inside_that_only_report_carried_ends_with_enforce() -> None:
    """Its connection's host is allowed all the time; the Host inside is another's, and its answer does not end."""

    async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nbegins")
        await reader.read()

    async with upstream(streams) as port:
        policy = {"allowed_hosts": [f"web.example.com:{port}"]}
        resolve = [f"web.example.com:{port}:127.0.0.1"]
        async with running({**policy, "mode": "report"}, resolve=resolve) as proxy:
            clients = await two_tunnels(proxy, port)
            for name, client in clients.items():
                await client.send(f"GET / HTTP/1.1\r\nHost: {name}:{port}\r\n\r\n".encode())
                await client.head()
                assert await client.exactly(6) == b"begins"
            proxy.replace(policy, resolve=resolve)
            assert await clients["other.example.com"].rest() == b""
            event = await proxy.event(lambda event: event.phase is Phase.CLOSED)
            assert event.reason is Reason.POLICY_REVOKED
            assert proxy.egress.open == 1, "the other one goes on"


async def test_an_opaque_tunnel_ends_when_its_rule_does_not_say_tcp_any_more() -> None:
    async with upstream(echo) as port, running(block(port), resolve=[f"{NAME}:{port}:127.0.0.1"]) as proxy:
        client = await tunnel(proxy, port)
        proxy.replace({"allowed_hosts": [f"{NAME}:{port}"]}, resolve=[f"{NAME}:{port}:127.0.0.1"])
        assert await client.rest() == b""
        assert (await proxy.event(lambda event: event.phase is Phase.CLOSED)).reason is Reason.POLICY_REVOKED


async def test_where_too_much_waits_the_one_that_holds_most_is_cut_and_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flow, "BUSY_BYTES", math.inf)  # in a pipe it would wait in the kernel

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    async with upstream(floods) as port, running(block(port), resolve=[f"{NAME}:{port}:127.0.0.1"]) as proxy:
        quiet = await proxy.client()
        assert "200" in await quiet.connect(f"{NAME}:{port}")
        proxy.egress.most_waiting = 0  # what the kernel does not take may be a few bytes
        with socket.create_connection(("127.0.0.1", proxy.port)) as sock:
            sock.sendall(f"CONNECT {NAME}:{port} HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\nx".encode())
            closed = await proxy.event(lambda event: event.phase is Phase.CLOSED)
        assert closed.reason is Reason.LIMIT_CONNECTIONS
        lines, _, _ = proxy.egress.recorder.read(0)
        assert any("too many bytes waited for peers that do not read them" in line for line in lines)
        await quiet.send(b"x")
        assert await quiet.exactly(1) == b"\0", "who holds nothing is left alone"


def held_by_the_kernel(sock: socket.socket) -> int:
    """Bytes of memory for what was received and not read, and what was sent and not taken (SO_MEMINFO)."""
    received, _, _, _, _, sent, *_ = struct.unpack("9I", sock.getsockopt(socket.SOL_SOCKET, 55, 36))
    return int(received + sent)


@pytest.mark.parametrize("never_reads", ["client", "server"])
async def test_the_kernel_holds_little_for_a_side_that_never_reads(never_reads: str) -> None:
    """A thousand such tunnels took all the memory that the sockets of a machine may have, and everybody stalled."""

    async def floods_or_sleeps(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        while never_reads == "client":
            writer.write(bytes(65536))
            await writer.drain()
        await asyncio.get_running_loop().create_future()

    async with (
        upstream(floods_or_sleeps) as port,
        running(block(port), resolve=[f"{NAME}:{port}:127.0.0.1"]) as proxy,
    ):
        with socket.create_connection(("127.0.0.1", proxy.port)) as sock:
            sock.sendall(f"CONNECT {NAME}:{port} HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n".encode())
            (source,) = proxy.egress.sources
            await proxy.until(lambda: any(isinstance(live, TunnelConnection) for live in source.live))
            (carried,) = source.live
            assert isinstance(carried, TunnelConnection)
            tunnel = carried.tunnel
            sock.setblocking(False)

            def full() -> bool:
                if never_reads == "client":
                    return bool(tunnel.inward.rest or tunnel.inward.held)
                try:
                    while True:
                        sock.send(bytes(65536))
                except BlockingIOError:
                    return bool(tunnel.outward.rest or tunnel.outward.held)

            await proxy.until(full)
            assert held_by_the_kernel(tunnel.outward.source) < 2_000_000


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        there = socket.create_connection(listener.getsockname())
        return listener.accept()[0], there


@pytest.mark.parametrize("serve", [serve_proxy, serve_direct])
@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_connections_that_are_cut_as_they_arrive_give_their_places_back(turns: int, serve: Serve) -> None:
    """A door that closes while its connections are accepted; each turn of the loop brings them further."""
    async with running({"allowed_hosts": ["web.example.com"]}) as proxy:
        (source,) = proxy.egress.sources
        pairs = [tcp_pair() for _ in range(20)]
        for here, _ in pairs:
            here.setblocking(False)
            assert proxy.egress.admit(source, here, "127.0.0.1", serve)
        for _ in range(turns):
            await asyncio.sleep(0)
        source.cut_all(Reason.DOOR_CLOSED)
        for task in list(source.tasks):
            task.cancel()
        await proxy.until(lambda: not source.tasks and not source.live)
        assert proxy.egress.open == 0
        assert source.backend.open == 0
        for _, there in pairs:
            there.settimeout(5)
            assert await asyncio.to_thread(there.recv, 1) == b""
            there.close()
