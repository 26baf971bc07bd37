"""A backend's own declared port is left to it, whatever it is; one that finds a port taken is told why."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from observability.events import BackendState, NoticeEvent, Reason, Via
from tests.gateway.runtime.real import Yard, yard

pytestmark = pytest.mark.docker

SERVER = """
import http.server, socket, threading
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/":
            body = b"served on 80"
        else:
            try:
                with socket.create_connection(("203.0.113.7", int(self.path[1:])), timeout=10) as sock:
                    sock.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
                    body = sock.makefile("rb").read()[-12:]
            except ConnectionError as error:
                body = type(error).__name__.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", 80), Page).serve_forever()
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Yard]:
    with yard() as found:
        web = {
            "image": found.image,
            "entrypoint": ["python3"],
            "args": ["-u", "-c", SERVER],
            "type": "http",
            "port": 80,
        }
        found.up({"web": {**web, "network": {"allowed_hosts": ["web.example"], "allowed_ports": [80, 443]}}})
        yield found


async def page(site: Yard, path: str) -> str:
    """What the backend answers to the gateway."""
    pair = await site.supervisor.instance("web")
    reader, writer = await asyncio.open_connection(sock=await pair.connect())
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    return answer.partition(b"\r\n\r\n")[2].decode()


def test_a_server_on_port_80_is_reached(site: Yard) -> None:
    assert site.portal.call(page, site, "/") == "served on 80"
    assert not [e for e in site.events if isinstance(e, NoticeEvent) and e.code == "listener_taken"]


def test_what_it_sends_straight_to_that_port_stays_inside_and_ps_says_so(site: Yard) -> None:
    before = len(site.egress_events("web"))
    assert site.portal.call(page, site, "/80") == "ConnectionRefusedError", "it listens on loopback only"
    (warning,) = site.supervisor.status()[0].warnings
    assert "port 80" in warning
    assert "stays inside" in warning
    assert not [e for e in site.egress_events("web")[before:] if e.port == 80]


def test_the_other_ports_are_listened_on_as_ever(site: Yard) -> None:
    assert site.portal.call(page, site, "/443") in ("", "ConnectionResetError")
    site.until(
        lambda: any(e.reason is Reason.DIRECT_ATTEMPT and e.via is Via.DIRECT for e in site.egress_events("web"))
    )


def test_a_policy_that_changes_leaves_the_port_to_it(site: Yard) -> None:
    server = site.supervisor.config.servers["web"]
    again = {"image": server.image, "entrypoint": ["python3"], "args": server.args, "type": "http", "port": 80}
    config = site.config({"web": {**again, "network": {"allowed_hosts": ["web.example:8080"]}}})
    containers = site.pair("web").containers
    site.portal.call(site.supervisor.apply, config)
    assert site.pair("web").containers == containers
    assert site.portal.call(page, site, "/") == "served on 80"
    site.until(lambda: site.portal.call(page, site, "/8080") in ("", "ConnectionResetError"))
    assert not [e for e in site.events if isinstance(e, NoticeEvent) and e.code == "listener_taken"]


PROGRAMS = {
    "python": ["python3", "-c", "import http.server; http.server.HTTPServer(('', 80), None)"],
    "as node says it": [
        "python3",
        "-c",
        "import sys; sys.exit('Error: listen EADDRINUSE: address already in use :::443')",
    ],
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_backend_that_finds_a_port_taken_is_told_who_has_it(site: Yard, program: str) -> None:
    """Without `port` it is no server over HTTP, and 80 is the door's."""
    entrypoint, *args = PROGRAMS[program]
    binder = {"image": site.image, "entrypoint": [entrypoint], "args": args}
    site.portal.call(site.supervisor.apply, site.config({"binder": binder}))
    site.until(lambda: site.supervisor.status()[0].state in {BackendState.BACKOFF, BackendState.FAILED})
    detail = site.supervisor.status()[0].detail
    assert "address already in use" in detail.lower()
    assert "Stockade listens on 53, 80, 443, 3128" in detail
    assert "let the server listen on another port" in detail
