"""The HTTP proxy, spoken to over real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl

import pytest
import trustme

from egress.net.interfaces import interface_addresses
from observability.events import Decision, Phase, Reason
from tests.egress.harness import OK, client_hello, echo, http_server, length_of, running, set_budget, upstream

pytestmark = pytest.mark.anyio

NAME = "api.example.com"
PUBLIC = {NAME: ["93.184.216.34"]}


def allow(port: int, **more: object) -> dict[str, object]:
    return {"allowed_hosts": [{"host": NAME, "port": port, **more}]}


def to(port: int) -> list[str]:
    return [f"{NAME}:{port}:127.0.0.1"]


async def test_an_allowed_get_is_carried_with_a_rebuilt_head() -> None:
    seen: list[bytes] = []
    async with upstream(http_server(OK, seen)) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        head, body = await client.get(
            f"http://{NAME}:{port}/x?y", "Proxy-Authorization: Basic c2VjcmV0", "X-Secret: 1", "Connection: x-secret"
        )
        assert (head.splitlines()[0], body) == ("HTTP/1.1 200 OK", b"hello")
        assert seen[0].startswith(b"GET /x?y HTTP/1.1\r\nHost: api.example.com:")
        for hidden in (b"proxy-", b"x-secret", b"via", b"x-forwarded"):
            assert hidden not in seen[0].lower()
        closed = await proxy.event(lambda event: event.phase is Phase.CLOSED)
        assert (closed.decision, closed.reason, closed.bytes_received) == (Decision.ALLOW, None, 5)
        assert (closed.address, closed.host, closed.port) == ("127.0.0.1", NAME, port)


async def test_each_request_of_a_kept_connection_is_decided_anew() -> None:
    async with upstream(http_server(OK)) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        assert (await client.get(f"http://{NAME}:{port}/"))[1] == b"hello"
        head, body = await client.get("http://evil.example/")
        assert head.splitlines()[0] == "HTTP/1.1 403 host_not_allowed"
        assert "X-Stockade-Reason: host_not_allowed" in head
        assert b"evil.example" in body
        assert (await client.get(f"http://{NAME}:{port}/"))[1] == b"hello"
        assert [e.decision for e in proxy.events() if e.phase is Phase.DECIDED] == ["allow", "deny", "allow"]


async def test_a_kept_upstream_connection_is_used_again() -> None:
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await http_server(OK)(reader, writer)

    async with upstream(handle) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        for _ in range(3):
            await client.get(f"http://{NAME}:{port}/")
        assert connections == 1


async def test_a_request_is_repeated_when_the_kept_connection_was_closed() -> None:
    async with upstream(http_server(OK, times=1)) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        for _ in range(3):
            assert (await client.get(f"http://{NAME}:{port}/"))[1] == b"hello"


async def test_what_a_server_sends_unasked_never_answers_the_next_request() -> None:
    poisoned = OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    async with upstream(http_server(poisoned)) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        for _ in range(3):
            assert (await client.get(f"http://{NAME}:{port}/"))[1] == b"hello"


async def test_tls_goes_through_a_connect_unbroken() -> None:
    authority = trustme.CA()
    server, trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert(NAME).configure_cert(server)
    authority.configure_trust(trusted)
    async with upstream(echo, server) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        assert await client.connect(f"{NAME}:{port}") == "HTTP/1.1 200 Connection established"
        await client.writer.start_tls(trusted, server_hostname=NAME)
        await client.send(b"x" * 300_000)
        assert await client.exactly(300_000) == b"x" * 300_000
        assert (await proxy.event(lambda event: event.via == "proxy")).decision is Decision.ALLOW


async def test_bytes_sent_together_with_connect_are_kept() -> None:
    hello = client_hello(NAME)
    async with upstream(echo) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        await client.send(f"CONNECT {NAME}:{port} HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n".encode() + hello)
        assert "200" in await client.head()
        assert await client.exactly(len(hello)) == hello


async def test_a_client_hello_in_single_bytes_is_understood() -> None:
    hello = client_hello(NAME)
    async with upstream(echo) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        await client.connect(f"{NAME}:{port}")
        for position in range(0, len(hello), 7):
            await client.send(hello[position : position + 7])
            await asyncio.sleep(0)
        assert await client.exactly(len(hello)) == hello


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        pytest.param(client_hello("evil.example"), Reason.SNI_MISMATCH, id="another name"),
        pytest.param(client_hello(None), Reason.SNI_MISSING, id="no name"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", Reason.NOT_TLS, id="ssh"),
        pytest.param(b"\x05\x01\x00", Reason.NOT_TLS, id="socks"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Reason.NOT_TLS, id="h2c"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", Reason.INNER_HOST_MISMATCH, id="another Host"),
    ],
)
async def test_what_is_inside_a_connect_must_be_for_its_host(first: bytes, reason: Reason) -> None:
    reached: list[bytes] = []
    async with upstream(http_server(OK, reached)) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        await client.connect(f"{NAME}:{port}")
        await client.send(first)
        await client.rest()
        event = await proxy.event(lambda event: event.reason is reason)
        assert event.decision is Decision.DENY
        assert reached == []


async def test_report_mode_carries_another_sni_and_says_so() -> None:
    hello = client_hello("other.example")
    block = {**allow(1), "mode": "report"}
    async with upstream(echo) as port:
        block["allowed_hosts"] = [f"{NAME}:{port}"]
        async with running(block, resolve=to(port)) as proxy:
            client = await proxy.client()
            await client.connect(f"{NAME}:{port}")
            await client.send(hello)
            assert await client.exactly(len(hello)) == hello
            event = await proxy.event(lambda event: event.decision is Decision.REPORT)
            assert event.reason is Reason.SNI_MISMATCH


async def test_plain_http_inside_a_connect_is_served_and_each_host_checked() -> None:
    seen: list[bytes] = []
    async with upstream(http_server(OK, seen)) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        await client.connect(f"{NAME}:{port}")
        for _ in range(2):
            await client.send(f"GET /a HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n".encode())
            assert (await client.response())[1] == b"hello"
        await client.send(b"GET /a HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        head, _ = await client.response()
        assert head.splitlines()[0] == "HTTP/1.1 403 inner_host_mismatch"
        assert len(seen) == 2
        assert (await proxy.event(lambda event: event.decision is Decision.DENY)).host == "evil.example"


@pytest.mark.parametrize("mode", ["report", "learn"])
async def test_report_and_learn_say_of_each_request_inside_what_would_be_denied(mode: str) -> None:
    """Red team m6: after a first request that fits, others named what they liked and no event said so."""
    async with upstream(http_server(OK)) as port:
        block = {**allow(port), "mode": mode}
        async with running(block, resolve=to(port)) as proxy:
            client = await proxy.client()
            await client.connect(f"{NAME}:{port}")
            sent = 0
            for host in (f"{NAME}:{port}", "evil.example", f"{NAME}:{port}", "worse.example:8080"):
                request = f"POST /a HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\n\r\nabc".encode()
                await client.send(request)
                sent += len(request)
                assert (await client.response())[1] == b"hello"
            client.writer.close()
            await proxy.event(lambda event: event.phase is Phase.CLOSED and event.host == NAME)
            told = [(e.phase, e.host, e.port, e.decision, e.reason, e.bytes_sent) for e in proxy.events()]
            assert told == [
                (Phase.DECIDED, NAME, port, Decision.ALLOW, None, 0),
                (Phase.DECIDED, "evil.example", 80, Decision.REPORT, Reason.INNER_HOST_MISMATCH, 0),
                (Phase.CLOSED, "evil.example", 80, Decision.REPORT, None, 0),
                (Phase.DECIDED, "worse.example", 8080, Decision.REPORT, Reason.INNER_HOST_MISMATCH, 0),
                (Phase.CLOSED, "worse.example", 8080, Decision.REPORT, None, 0),
                (Phase.CLOSED, NAME, port, Decision.ALLOW, None, sent),
            ]
            assert all(f"the connection is to {NAME}" in e.detail for e in proxy.events() if e.host != NAME)


async def test_a_first_request_inside_that_does_not_fit_says_what_it_names() -> None:
    async with upstream(http_server(OK)) as port:
        async with running({**allow(port), "mode": "report"}, resolve=to(port)) as proxy:
            client = await proxy.client()
            await client.connect(f"{NAME}:{port}")
            await client.send(b"GET /a HTTP/1.1\r\nHost: evil.example\r\n\r\n")
            assert (await client.response())[1] == b"hello"
            event = await proxy.event(lambda event: event.decision is Decision.REPORT)
            assert (event.host, event.reason) == (NAME, Reason.INNER_HOST_MISMATCH)
            assert "evil.example:80" in event.detail


async def test_a_flood_of_requests_inside_that_do_not_fit_is_told_in_numbers() -> None:
    """Each is counted, few have an event of their own: a backend makes as many as it likes."""
    many = 300
    async with upstream(http_server(OK)) as port:
        async with running({**allow(port), "mode": "report"}, resolve=to(port)) as proxy:
            client = await proxy.client()
            await client.connect(f"{NAME}:{port}")
            await client.send(f"GET / HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n".encode())
            await client.send(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n" * many)
            for _ in range(many + 1):
                await client.response()
            proxy.egress.sweep_once(proxy.egress.loop.time())
            told = [e for e in proxy.events() if e.reason is Reason.INNER_HOST_MISMATCH]
            assert sum(e.count for e in told) == many
            assert len(told) < many / 2
            counted = [e for e in told if e.phase is Phase.COUNTED]
            assert {e.decision for e in counted} == {Decision.REPORT}


async def test_protocol_tcp_carries_anything_and_the_server_may_speak_first() -> None:
    async def greets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\r\n")
        await echo(reader, writer)

    async with upstream(greets) as port, running(allow(port, protocol="tcp"), resolve=to(port)) as proxy:
        client = await proxy.client()
        await client.connect(f"{NAME}:{port}")
        assert await client.exactly(11) == b"220 ready\r\n"
        await client.send(b"\x00\x01")
        assert await client.exactly(2) == b"\x00\x01"


async def test_a_half_close_reaches_the_server_and_its_answer_comes_back() -> None:
    async def answers_at_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()
        writer.write(b"got %d" % len(data))

    async with upstream(answers_at_end) as port, running(allow(port, protocol="tcp"), resolve=to(port)) as proxy:
        client = await proxy.client()
        await client.connect(f"{NAME}:{port}")
        await client.send(b"x" * 1000)
        client.writer.write_eof()
        assert await client.rest() == b"got 1000"
        closed = await proxy.event(lambda event: event.phase is Phase.CLOSED)
        assert (closed.bytes_sent, closed.bytes_received, closed.reason) == (1000, 8, None)


async def test_bodies_stream_both_ways_whatever_their_size() -> None:
    size = 5_000_000

    async def mirror(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        left = size
        while left:
            data = await reader.read(65536)
            left -= len(data)
            writer.write(data)
            await writer.drain()

    async with upstream(mirror) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        url = f"http://{NAME}:{port}/"
        head = f"POST {url} HTTP/1.1\r\nHost: {NAME}:{port}\r\nContent-Length: {size}\r\n\r\n"

        async def send() -> None:
            await client.send(head.encode())
            for _ in range(size // 50_000):
                await client.send(b"z" * 50_000)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send())
            answer = await client.head()
            assert await client.exactly(length_of(answer)) == b"z" * size


async def test_chunks_and_trailers_are_framed_anew() -> None:
    received = asyncio.get_running_loop().create_future()

    async def chunked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.set_result(await reader.readuntil(b"X-Sum: 7\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
        writer.write(b"5;ext=1\r\nhello\r\n0\r\nX-Sum: 9\r\nContent-Length: 3\r\n\r\n")
        await reader.read()

    async with upstream(chunked) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        head = f"POST http://{NAME}:{port}/ HTTP/1.1\r\nHost: {NAME}:{port}\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(head.encode() + b"3;a=b\r\nabc\r\n4\r\ndefg\r\n0\r\nX-Sum: 7\r\n\r\n")
        assert "Transfer-Encoding: chunked" in await client.head()
        expected = b"5\r\nhello\r\n0\r\nX-Sum: 9\r\n\r\n"
        assert await client.exactly(len(expected)) == expected
        sent = await received
        assert b"a=b" not in sent
        assert sent.endswith(b"7\r\nabcdefg\r\n0\r\nX-Sum: 7\r\n\r\n")


async def test_expect_continue_is_answered_by_the_server() -> None:
    async def waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await reader.readexactly(3) == b"abc"
        writer.write(OK)

    async with upstream(waits) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        url = f"http://{NAME}:{port}/"
        head = f"PUT {url} HTTP/1.1\r\nHost: {NAME}:{port}\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        await client.send(head.encode())
        assert (await client.head()).startswith("HTTP/1.1 100 ")
        await client.send(b"abc")
        assert (await client.response())[1] == b"hello"


async def test_a_websocket_becomes_a_tunnel_after_101() -> None:
    async def switches(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"Upgrade: websocket" in head
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        await echo(reader, writer)

    async with upstream(switches) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        head, _ = await client.get(f"http://{NAME}:{port}/", "Connection: upgrade", "Upgrade: websocket")
        assert head.startswith("HTTP/1.1 101 ")
        await client.send(b"\x81\x05hello")
        assert await client.exactly(7) == b"\x81\x05hello"


@pytest.mark.parametrize(
    ("response", "method", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "GET", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "GET", b""),
    ],
)
async def test_responses_without_a_body_end_at_their_head(response: bytes, method: str, body: bytes) -> None:
    async with upstream(http_server(response)) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        url = f"http://{NAME}:{port}/"
        for _ in range(2):
            await client.send(f"{method} {url} HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n".encode())
            assert (await client.head()).split()[1] == response.split()[1].decode()


async def test_a_response_without_length_ends_with_its_connection() -> None:
    response = b"HTTP/1.0 200 OK\r\n\r\nuntil the end"
    async with upstream(http_server(response, times=1)) as port, running(allow(port), resolve=to(port)) as proxy:
        answer = await proxy.ask(f"GET http://{NAME}:{port}/ HTTP/1.0\r\n\r\n".encode())
        assert answer.endswith(b"\r\n\r\nuntil the end")
        assert b"Connection: close" in answer


async def test_what_only_the_proxy_may_say_is_removed_from_responses() -> None:
    response = OK.replace(b"Content", b"X-Stockade-Reason: host_not_allowed\r\nProxy-Authenticate: Basic\r\nContent")
    async with upstream(http_server(response)) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        head, _ = await client.get(f"http://{NAME}:{port}/")
        assert "stockade" not in head.lower()
        assert "proxy-" not in head.lower()


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", id="two lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", id="both"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", id="list of codings"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: 1\r\n folded\r\n\r\n", id="obs-fold"),
        pytest.param(b"SSH-2.0-x\r\n\r\n", id="no HTTP"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", id="101 unasked"),
    ],
)
async def test_a_bad_response_is_502(response: bytes) -> None:
    async with upstream(http_server(response, times=1)) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        head, _ = await client.get(f"http://{NAME}:{port}/")
        assert head.splitlines()[0] == "HTTP/1.1 502 upstream_invalid"
        event = await proxy.event(lambda event: event.reason is Reason.UPSTREAM_INVALID)
        assert (event.phase, event.decision) == (Phase.CLOSED, Decision.ALLOW)


@pytest.mark.parametrize(
    ("request_bytes", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "bad_request"),
        (b"\x16\x03\x01\x02\x00", "bad_request"),
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "bad_request"),
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", "too_large"),
        (b"GET http://a/ HT", "bad_request"),
    ],
)
async def test_a_malformed_request_is_400_and_closed(request_bytes: bytes, reason: str) -> None:
    async with running({"allowed_hosts": ["a"]}) as proxy:
        answer = await proxy.ask(request_bytes)
        assert answer.startswith(f"HTTP/1.1 400 {reason}\r\n".encode())
        assert proxy.events()[0].reason == reason


async def test_a_malformed_chunk_of_a_request_is_400() -> None:
    async with upstream(http_server(b"")) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        head = f"POST http://{NAME}:{port}/ HTTP/1.1\r\nHost: {NAME}:{port}\r\nTransfer-Encoding: chunked\r\n\r\n"
        await client.send(head.encode() + b"0x5\r\nhello\r\n0\r\n\r\n")
        assert (await client.head()).startswith("HTTP/1.1 400 bad_request")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", Reason.ADDRESS_LOOPBACK),
        ("10.1.2.3", Reason.ADDRESS_PRIVATE),
        ("169.254.1.1", Reason.ADDRESS_LINK_LOCAL),
        ("169.254.169.254", Reason.ADDRESS_METADATA),
        ("100.64.1.1", Reason.ADDRESS_CGNAT),
        ("224.0.0.1", Reason.ADDRESS_MULTICAST),
        ("240.0.0.1", Reason.ADDRESS_RESERVED),
        ("64:ff9b::a00:5", Reason.ADDRESS_EMBEDDED),
        ("198.51.99.7", Reason.ADDRESS_HOST),
        ("198.51.99.8", Reason.ADDRESS_SELF),
    ],
)
async def test_a_name_that_leads_inside_is_denied(address: str, reason: Reason) -> None:
    around = {"host_addresses": ["198.51.99.7"], "self_addresses": ["198.51.99.8"], "standalone": False}
    names = {NAME: [address], "mixed.example.com": ["93.184.216.34", address]}
    async with running({"allowed_hosts": [".example.com"]}, names=names, **around) as proxy:
        client = await proxy.client()
        assert await client.connect(f"{NAME}:443") == f"HTTP/1.1 403 {reason}"
        client = await proxy.client()
        assert (await client.connect("mixed.example.com:443")).startswith("HTTP/1.1 403 address_")
        assert proxy.events()[0].address == address


@pytest.mark.parametrize(
    ("block", "authority", "reason"),
    [
        ({}, f"{NAME}:443", Reason.EMPTY_POLICY),
        ({"allowed_hosts": [NAME]}, f"{NAME}:22", Reason.PORT_NOT_ALLOWED),
        ({"allowed_hosts": [NAME]}, "93.184.216.34:443", Reason.IP_NOT_ALLOWED),
        ({"allowed_hosts": [NAME]}, "other.example:443", Reason.HOST_NOT_ALLOWED),
        ({"allowed_hosts": ["gone.example"]}, "gone.example:443", Reason.DNS_FAILED),
    ],
)
async def test_connect_denials_carry_their_reason(block: dict[str, object], authority: str, reason: Reason) -> None:
    async with running(block, names=PUBLIC) as proxy:
        client = await proxy.client()
        status = await client.connect(authority)
        assert status.split(" ", 2)[2] == reason
        assert proxy.events()[0].reason is (reason if reason is not Reason.DNS_FAILED else None)


async def test_a_denied_name_is_never_looked_up() -> None:
    async with running({"allowed_hosts": ["good.example"]}, names=PUBLIC) as proxy:
        client = await proxy.client()
        await client.connect(f"{NAME}:443")
        resolver = proxy.egress.dialer.resolver
        assert getattr(resolver, "asked", None) == []


async def test_a_refused_connection_is_502_with_both_events() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        async with running(allow(port), resolve=to(port)) as proxy:
            client = await proxy.client()
            assert await client.connect(f"{NAME}:{port}") == "HTTP/1.1 502 connect_failed"
            assert [(e.phase, e.reason) for e in proxy.events()] == [
                (Phase.DECIDED, None),
                (Phase.CLOSED, Reason.CONNECT_FAILED),
            ]


async def test_a_server_that_does_not_answer_is_504() -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        async with running(allow(port), resolve=to(port)) as proxy:
            proxy.egress.dialer.connect_timeout_s = 0.2
            client = await proxy.client()
            assert await client.connect(f"{NAME}:{port}") == "HTTP/1.1 504 connect_timeout"


async def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    async with upstream(echo) as port:
        resolve = [f"{NAME}:{port}:127.0.0.2", *to(port)]
        async with running(allow(port, protocol="tcp"), resolve=resolve) as proxy:
            client = await proxy.client()
            assert "200" in await client.connect(f"{NAME}:{port}")


async def test_a_service_of_the_host_on_loopback_only_is_explained() -> None:
    gateways = [str(address) for address in interface_addresses() if address.version == 4]
    if not gateways:
        pytest.skip("this machine has no address but loopback")
    with socket.socket() as local:
        local.bind(("127.0.0.1", 0))
        local.listen()
        port = local.getsockname()[1]
        block = {"allowed_hosts": ["host.docker.internal"], "allowed_ports": [port]}
        around = {"host_gateway": gateways[0], "host_addresses": gateways, "standalone": False}
        async with running(block, **around) as proxy:

            async def ask(asked: int) -> str:
                assert asked == port
                return "loopback"

            proxy.egress.dialer.ask_host_port = ask
            client = await proxy.client()
            await client.send(
                f"CONNECT host.docker.internal:{port} HTTP/1.1\r\nHost: host.docker.internal:{port}\r\n\r\n".encode()
            )
            head, body = await client.response()
            assert head.startswith("HTTP/1.1 502 host_loopback_only")
            assert b"127.0.0.1 only" in body
            assert gateways[0].encode() in body


async def test_the_connection_cap_answers_503_and_is_counted_once_a_second() -> None:
    async with upstream(echo) as port:
        block = {**allow(port, protocol="tcp"), "limits": {"connections": 2}}
        async with running(block, resolve=to(port)) as proxy:
            held = [await proxy.client() for _ in range(2)]
            for client in held:
                assert "200" in await client.connect(f"{NAME}:{port}")
            more = await proxy.client()
            assert (await more.rest()).startswith(b"HTTP/1.1 503 limit_connections")
            event = await proxy.event(lambda event: event.reason is Reason.LIMIT_CONNECTIONS)
            assert event.phase is Phase.COUNTED
            held[0].writer.close()
            await proxy.until(lambda: proxy.egress.open < 2)
            again = await proxy.client()
            assert "200" in await again.connect(f"{NAME}:{port}")


async def test_too_many_requests_a_second_answer_429() -> None:
    block = {"allowed_hosts": ["a.example"], "limits": {"rate": 1}}
    async with running(block) as proxy:
        client = await proxy.client()
        heads = [(await client.get("http://b.example/"))[0] for _ in range(3)]
        assert [head.split()[1] for head in heads] == ["403", "403", "429"]


async def test_a_head_that_never_ends_times_out() -> None:
    async with running({"allowed_hosts": ["a.example"]}) as proxy:
        set_budget(proxy.egress, head_timeout_s=0.1)
        client = await proxy.client()
        await client.send(b"GET http://a.example/ HTTP/1.1\r\n")
        assert (await client.rest()).startswith(b"HTTP/1.1 408 head_timeout")
        assert proxy.events()[0].reason is Reason.HEAD_TIMEOUT


async def test_a_tunnel_that_never_shows_anything_times_out() -> None:
    async with upstream(echo) as port, running(allow(port), resolve=to(port)) as proxy:
        set_budget(proxy.egress, head_timeout_s=0.1)
        client = await proxy.client()
        await client.connect(f"{NAME}:{port}")
        await client.rest()
        assert (await proxy.event(lambda event: True)).reason is Reason.HEAD_TIMEOUT


async def test_an_idle_tunnel_and_a_silent_server_time_out() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with upstream(silent) as port, running(allow(port), resolve=to(port)) as proxy:
        set_budget(proxy.egress, idle_timeout_s=0.1)
        client = await proxy.client()
        await client.connect(f"{NAME}:{port}")
        await client.send(client_hello(NAME))
        await client.rest()
        other = await proxy.client()
        head, _ = await other.get(f"http://{NAME}:{port}/")
        assert head.startswith("HTTP/1.1 504 idle_timeout")
        reasons = [event.reason for event in proxy.events() if event.phase is Phase.CLOSED]
        assert reasons == [Reason.IDLE_TIMEOUT, Reason.IDLE_TIMEOUT]


@pytest.mark.parametrize(("port", "advised"), [(443, "evil.example"), (80, "evil.example:80")])
async def test_the_advice_in_a_refusal_lifts_it(port: int, advised: str) -> None:
    """A host alone is allowed on the policy's ports only."""
    async with running({"allowed_hosts": ["api.example"], "allowed_ports": [443]}) as proxy:
        client = await proxy.client()
        await client.send(f"CONNECT evil.example:{port} HTTP/1.1\r\nHost: evil.example:{port}\r\n\r\n".encode())
        _, body = await client.response()
        assert body.decode().rstrip().endswith(f"add {advised} to allowed_hosts in the policy file.")
        proxy.replace({"allowed_hosts": ["api.example", advised], "allowed_ports": [443]})
        again = await proxy.client()
        assert "403" not in await again.connect(f"evil.example:{port}")
