"""What a refusal tells: host and port wherever they can be read, and the line that helps."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from observability.events import Decision, EgressEvent, Phase, Reason, Via
from tests.egress.harness import OK, Running, echo, http_server, length_of, running, set_budget, upstream
from tests.egress.site import OUTSIDE, site

pytestmark = pytest.mark.anyio

NAME = "api.test"
HTTPS = "this program sends https without CONNECT"


def allow(port: int) -> dict[str, object]:
    return {"allowed_hosts": [f"{NAME}:{port}"]}


def to(port: int) -> list[str]:
    return [f"{NAME}:{port}:127.0.0.1"]


async def refusal(proxy: Running) -> EgressEvent:
    event = await proxy.event(lambda event: event.decision is Decision.DENY)
    assert len(proxy.events()) == 1, "one event for one refusal"
    return event


@pytest.mark.parametrize(
    ("sent", "place", "reason"),
    [
        ("GET https://api.test:18443/x HTTP/1.1\r\nHost: api.test:18443", "api.test:18443", "https_without_connect"),
        ("POST https://api.test HTTP/1.1\r\nHost: api.test", "api.test:443", "https_without_connect"),
        ("GET HTTPS://API.test/x HTTP/1.0\r\nA: b", "api.test:443", "https_without_connect"),
        ("GET wss://api.test/x HTTP/1.1\r\nHost: api.test", "api.test:443", "https_without_connect"),
        ("GET http://api.test:81/ HTTP/1.1\r\nHost: evil.test", "api.test:81", "bad_request"),
        ("GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\nHost: api.test", "api.test:80", "bad_request"),
        ("GET http://api.test/ HTTP/1.1\r\nHost: api.test\r\n folded", "api.test:80", "bad_request"),
        ("GET http://user:word@api.test/ HTTP/1.1\r\nHost: api.test", "api.test:80", "bad_request"),
        ("GET http://[2001:db8::1]:81/ HTTP/1.1\r\nHost: x", "[2001:db8::1]:81", "bad_request"),
        ("CONNECT api.test:444 HTTP/1.1\r\nHost: evil.test", "api.test:444", "bad_request"),
        ("CONNECT api.test:444 HTTP/1.1\r\nContent-Length: 1\r\nHost: api.test", "api.test:444", "bad_request"),
        ("GET /x HTTP/1.1\r\nHost: api.test:8080", "api.test:8080", "bad_request"),
        ("GET http://api.test/ HTTP/2.0\r\nHost: api.test", "api.test:80", "bad_request"),
        ("GET http://api.test/ HTTP/1.1\r\nX: " + "y" * 20_000, "api.test:80", "too_large"),
    ],
)
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "in pieces"])
async def test_a_malformed_request_keeps_its_host_and_port(sent: str, place: str, reason: str, cut: bool) -> None:
    async with running({"allowed_hosts": ["a.test"]}) as proxy:
        client = await proxy.client()
        data = sent.encode() + b"\r\n\r\n"
        for piece in [data[:9], data[9:-1], data[-1:]] if cut else [data]:
            await client.send(piece)
            await asyncio.sleep(0.01 if cut else 0)
        answer = (await client.rest()).decode()
        event = await refusal(proxy)
        shown = f"[{event.host}]:{event.port}" if ":" in event.host else f"{event.host}:{event.port}"
        assert (shown, event.reason, event.method) == (place, reason, sent.split()[0])
        assert answer.startswith(f"HTTP/1.1 400 {reason}\r\n")
        assert place.replace("[", "").replace("]", "") in answer
        assert (HTTPS in answer, HTTPS in event.detail) == ((reason == "https_without_connect"),) * 2


async def test_a_request_that_never_ends_keeps_its_host_and_port() -> None:
    async with running({"allowed_hosts": ["a.test"]}) as proxy:
        set_budget(proxy.egress, head_timeout_s=0.1)
        client = await proxy.client()
        await client.send(b"GET http://api.test:81/x HTTP/1.1\r\nHost: ap")
        await client.rest()
        event = await refusal(proxy)
        assert (event.host, event.port, event.reason) == (NAME, 81, Reason.HEAD_TIMEOUT)


@pytest.mark.parametrize(
    "field", ["{name}", "{name}:80", "{name}:443", "127.0.0.1:3128", "localhost:3128", "[::1]:3128"]
)
async def test_a_host_that_means_the_target_or_the_proxy_itself_is_taken(field: str) -> None:
    """RFC 9112 3.2.2: the target counts. What goes out names it."""
    seen: list[bytes] = []
    async with upstream(http_server(OK, seen)) as port, running(allow(port), resolve=to(port)) as proxy:
        host = field.format(name=NAME)
        answer = await proxy.ask(
            f"GET http://{NAME}:{port}/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        assert answer.endswith(b"hello")
        assert f"Host: {NAME}:{port}\r\n".encode() in seen[0]
        client = await proxy.client()
        await client.send(f"CONNECT {NAME}:{port} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert (await client.head()).startswith("HTTP/1.1 200")


@pytest.mark.parametrize(
    "host", ["evil.test", "evil.test:{port}", "127.0.0.1:{port}", "127.0.0.1", "10.0.0.1:3128", "b.test"]
)
async def test_a_host_that_is_another_stays_refused(host: str) -> None:
    seen: list[bytes] = []
    async with upstream(http_server(OK, seen)) as port:
        policy = {"allowed_hosts": [f"{NAME}:{port}", "b.test"]}
        async with running(policy, resolve=to(port)) as proxy:
            answer = await proxy.ask(
                f"GET http://{NAME}:{port}/ HTTP/1.1\r\nHost: {host.format(port=port)}\r\n\r\n".encode()
            )
            assert answer.startswith(b"HTTP/1.1 400 bad_request")
            assert seen == []


async def test_a_request_inside_that_names_another_port_is_told_both() -> None:
    async with upstream(http_server(OK)) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        await client.connect(f"{NAME}:{port}")
        await client.send(f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        answer = (await client.rest()).decode()
        assert f"the request inside names {NAME}:80; the connection is to {NAME}:{port}" in answer


@pytest.mark.parametrize(
    "first",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"OPTIONS rtsp://api.test/x RTSP/1.0\r\nCSeq: 1\r\n\r\n",
        b"REGISTER sip:api.test SIP/2.0\r\nVia: SIP/2.0/TCP x\r\n\r\n",
        b"EHLO me\r\n",
        b"USER anonymous\r\n",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
    ],
    ids=["gRPC", "RTSP", "SIP", "SMTP", "FTP", "Postgres"],
)
@pytest.mark.parametrize("pieces", [1, 3])
async def test_another_protocol_in_a_tunnel_keeps_host_port_and_hint(first: bytes, pieces: int) -> None:
    reached: list[bytes] = []
    async with upstream(http_server(OK, reached)) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        await client.connect(f"{NAME}:{port}")
        for start in range(0, len(first), -(-len(first) // pieces)):
            with contextlib.suppress(ConnectionError):  # one byte may be enough to refuse it
                await client.send(first[start : start + -(-len(first) // pieces)])
            await asyncio.sleep(0.01)
        await client.rest()
        event = await refusal(proxy)
        assert (event.host, event.port, event.reason) == (NAME, port, Reason.NOT_TLS)
        assert f"{{host: {NAME}, port: {port}, protocol: tcp}}" in event.detail
        assert reached == []


async def test_report_carries_another_protocol_that_begins_like_http() -> None:
    async with upstream(echo) as port, running({**allow(port), "mode": "report"}, resolve=to(port)) as proxy:
        client = await proxy.client()
        await client.connect(f"{NAME}:{port}")
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        await client.send(preface)
        assert await client.exactly(len(preface)) == preface
        event = await proxy.event(lambda event: event.phase is Phase.DECIDED)
        assert (event.decision, event.reason, event.host, event.port) == ("report", Reason.NOT_TLS, NAME, port)


async def test_a_malformed_request_in_a_tunnel_keeps_its_host_and_port() -> None:
    async with upstream(http_server(OK)) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        await client.connect(f"{NAME}:{port}")
        await client.send(b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        assert f"{NAME}:{port} (bad_request)" in (await client.rest()).decode()
        event = await refusal(proxy)
        assert (event.host, event.port, event.reason) == (NAME, port, Reason.BAD_REQUEST)


async def test_a_tunnel_that_stays_silent_is_told_that_such_a_server_needs_a_tcp_rule() -> None:
    async with upstream(echo) as port, running(allow(port), resolve=to(port)) as proxy:
        set_budget(proxy.egress, head_timeout_s=0.1)
        client = await proxy.client()
        await client.connect(f"{NAME}:{port}")
        await client.rest()
        event = await refusal(proxy)
        assert (event.host, event.port, event.reason) == (NAME, port, Reason.HEAD_TIMEOUT)
        assert (
            f"where the server speaks first, it needs {{host: {NAME}, port: {port}, protocol: tcp}}" in event.detail
        )


# --- around the proxy


DIRECT = {"fetch": {"allowed_hosts": ["web.example", "db.example:5432"], "direct": "allow"}}


async def test_a_direct_connection_that_shows_no_name_is_told_by_the_name_that_was_looked_up() -> None:
    code = """
s = dial(lookup("db.example")[1][0], 5432); s.sendall(b"\\0\\0\\0\\x08\\x04\\xd2\\x16\\x2f")
print(repr(s.recv(9)))
s = dial(lookup("db.example")[1][0], 5432); s.shutdown(socket.SHUT_WR); print(repr(s.recv(9)))
"""
    async with site(DIRECT) as running:
        await running.start_door("fetch", ports="80,443,5432")
        assert await running.inside("fetch", code) == "b''\nb''"
        spoke = await running.event(lambda event: event.reason is Reason.NOT_TLS)
        silent = await running.event(lambda event: event.reason is Reason.HEAD_TIMEOUT)
        for event in (spoke, silent):
            assert (event.via, event.host, event.port) == (Via.DIRECT, "db.example", 5432)
            assert event.destination == f"{OUTSIDE}:5432"
            assert "{host: db.example, port: 5432, protocol: tcp}" in event.detail


async def test_a_direct_connection_to_an_address_that_nobody_looked_up_is_told_by_it() -> None:
    code = 's = dial("198.51.100.9", 5432); s.sendall(b"\\0\\0\\0\\x08\\x04\\xd2"); print(repr(s.recv(9)))'
    async with site(DIRECT) as running:
        await running.start_door("fetch", ports="80,443,5432")
        assert await running.inside("fetch", code) == "b''"
        event = await running.event(lambda event: event.decision is Decision.DENY)
        assert (event.host, event.port, event.reason) == ("198.51.100.9", 5432, Reason.IP_NOT_ALLOWED)


async def test_an_allowed_name_that_is_only_looked_up_is_told_what_it_lacks() -> None:
    async with site({"fetch": {"allowed_hosts": ["web.example", ".wide.example"]}}) as running:
        await running.start_door("fetch")
        await running.inside("fetch", 'for name in ("web", "a.wide", "evil"): lookup(name + ".example")')
        for name, allowed in (("web.example", True), ("a.wide.example", True), ("evil.example", False)):
            event = await running.event(lambda event, name=name: event.host == name)  # type: ignore[misc]
            assert (event.via, event.reason) == (Via.DNS, Reason.DIRECT_ATTEMPT)
            assert (f"{name} is allowed, but this program does not use the proxy" in event.detail) is allowed


# --- what left


@pytest.mark.parametrize("body", [b"", b"hello"])
async def test_every_byte_that_left_counts_as_sent(body: bytes) -> None:
    """A URL carries as much as a body: what the server received is what the event says."""
    seen: list[bytes] = []

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        seen.append(head + await reader.readexactly(length_of(head.decode())))
        writer.write(OK)

    async with upstream(server) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        fields = f"Host: {NAME}:{port}\r\nContent-Length: {len(body)}\r\nProxy-Authorization: Basic eA=="
        await client.send(f"POST http://{NAME}:{port}/?q={'A' * 3000} HTTP/1.1\r\n{fields}\r\n\r\n".encode() + body)
        await client.response()
        client.writer.close()
        event = await proxy.event(lambda event: event.phase is Phase.CLOSED)
        assert event.bytes_sent == len(seen[0]) > 3000


async def test_requests_inside_a_tunnel_count_together_and_chunks_as_they_were_framed() -> None:
    received: list[bytes] = []

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK)
        received.append(await reader.readuntil(b"X-Trailer: much\r\n\r\n"))
        writer.write(OK)
        await reader.read()

    async with upstream(server) as port, running(allow(port), resolve=to(port)) as proxy:
        client = await proxy.client()
        await client.connect(f"{NAME}:{port}")
        await client.send(f"GET /a HTTP/1.1\r\nHost: {NAME}:{port}\r\n\r\n".encode())
        await client.response()
        await client.send(f"POST /b HTTP/1.1\r\nHost: {NAME}:{port}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        await client.send(b"5\r\nhello\r\n0\r\nX-Trailer: much\r\n\r\n")
        await client.response()
        client.writer.close()
        event = await proxy.event(lambda event: event.phase is Phase.CLOSED)
        assert event.bytes_sent == sum(map(len, received))
