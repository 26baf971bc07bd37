"""`host.docker.internal`: the ports that are named, and of this machine nothing else, by whatever address."""

from __future__ import annotations

import http.server
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import docker
import pytest

from egress.net.interfaces import interface_addresses
from gateway.runtime.containers import sandbox as sandbox_module
from tests.gateway.runtime.real import Yard, yard

pytestmark = pytest.mark.docker

GATEWAY_PORT = 8420
"""The gateway's own, by its default configuration."""


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.arrived.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"hi")

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def service(address: str) -> Iterator[http.server.HTTPServer]:
    """An HTTP service of this machine; `arrived` has what reached it."""
    with http.server.ThreadingHTTPServer((address, 0), Page) as server:
        server.arrived = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def services() -> Iterator[Mapping[str, http.server.HTTPServer]]:
    """`named` and `other` on all addresses, `loopback` on 127.0.0.1."""
    with ExitStack() as stack:
        where = {"named": "0.0.0.0", "other": "0.0.0.0", "loopback": "127.0.0.1"}
        yield {name: stack.enter_context(service(address)) for name, address in where.items()}


@pytest.fixture(scope="module")
def site(services: Mapping[str, http.server.HTTPServer]) -> Iterator[Yard]:
    with yard() as found:
        found.up({"rogue": found.rogue(network=policy(services))})
        yield found


def policy(services: Mapping[str, http.server.HTTPServer], *more: Any) -> dict[str, Any]:
    """Two ports of the host, and the gateway's, by the host's name; everything else is in `more`."""
    ports = [services["named"].server_port, services["loopback"].server_port, GATEWAY_PORT]
    return {"allowed_hosts": [{"host": "host.docker.internal", "ports": ports}, *more]}


def get(site: Yard, host: str, port: int) -> str:
    """What the rogue gets from there through the proxy."""
    answer: str = site.ask(
        f"""
        import socket
        with socket.create_connection(("127.0.0.1", 3128), timeout=15) as sock:
            name = "{f"[{host}]" if ":" in host else host}:{port}"
            sock.sendall(f"GET http://{{name}}/ HTTP/1.1\\r\\nHost: {{name}}\\r\\nConnection: close\\r\\n\\r\\n".encode())
            answer = sock.makefile("rb").read(4000).decode()
        """
    )
    return answer


def test_the_named_port_of_the_host_is_reached(site: Yard, services: Mapping[str, http.server.HTTPServer]) -> None:
    assert get(site, "host.docker.internal", services["named"].server_port).endswith("hi")


def test_a_port_that_is_not_named_is_refused_though_somebody_listens(
    site: Yard, services: Mapping[str, http.server.HTTPServer]
) -> None:
    assert "403 port_not_allowed" in get(site, "host.docker.internal", services["other"].server_port)
    assert services["other"].arrived == []  # type: ignore[attr-defined]


def test_a_service_on_loopback_only_is_explained(site: Yard, services: Mapping[str, http.server.HTTPServer]) -> None:
    port = services["loopback"].server_port
    answer = get(site, "host.docker.internal", port)
    assert answer.startswith("HTTP/1.1 502 host_loopback_only")
    assert f"the host's service on port {port} listens on 127.0.0.1 only" in answer
    assert "make it listen on 0.0.0.0 or on " in answer


def test_a_port_where_nobody_listens_is_plainly_refused(
    site: Yard, services: Mapping[str, http.server.HTTPServer]
) -> None:
    with service("127.0.0.1") as gone:
        port = gone.server_port
    rule = {"host": "host.docker.internal", "port": port}
    apply(site, {"allowed_hosts": [rule]})
    answer = get(site, "host.docker.internal", port)
    apply(site, policy(services))
    assert "connect_failed" in answer
    assert "127.0.0.1 only" not in answer


def test_the_gateways_own_port_is_never_opened(site: Yard) -> None:
    assert "403 address_self" in get(site, "host.docker.internal", GATEWAY_PORT)


def test_no_address_of_the_host_is_opened_by_a_rule_for_it(
    site: Yard, services: Mapping[str, http.server.HTTPServer]
) -> None:
    """Each address, IPv6 too, named by an exact rule with the port of a service that listens there."""
    port = services["other"].server_port
    addresses = [str(address) for address in interface_addresses() if not address.is_link_local]
    assert addresses
    apply(site, policy(services, *({"host": address, "port": port} for address in addresses)))
    answers = {address: get(site, address, port).partition("\r\n")[0] for address in addresses}
    apply(site, policy(services))
    assert set(answers.values()) == {"HTTP/1.1 403 address_host"}, answers
    assert services["other"].arrived == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ["report", "learn"])
def test_no_mode_opens_the_host(site: Yard, services: Mapping[str, http.server.HTTPServer], mode: str) -> None:
    port = services["other"].server_port
    network = site.sandbox.egress.network
    assert network is not None
    apply(site, {**policy(services), "mode": mode})
    answers = [get(site, host, port) for host in ("host.docker.internal", network.gateway)]
    apply(site, policy(services))
    assert all(answer.startswith("HTTP/1.1 403") for answer in answers), answers


def apply(site: Yard, block: Mapping[str, Any]) -> None:
    site.portal.call(site.supervisor.apply, site.config({"rogue": site.rogue(network=block)}))


def test_the_address_of_a_network_made_later_is_closed_at_once(
    site: Yard, services: Mapping[str, http.server.HTTPServer], engine: docker.DockerClient
) -> None:
    """A rule for the whole subnet does not open this machine's own address on it. Nobody waits for a refresh."""
    assert sandbox_module.REFRESH_S >= 30
    third = 1 + secrets.randbelow(250)
    port = services["other"].server_port
    apply(site, policy(services, {"host": f"10.219.{third}.0/24", "port": port}))
    pool = docker.types.IPAMPool(subnet=f"10.219.{third}.0/24", gateway=f"10.219.{third}.1")
    later = engine.networks.create(
        f"stkhost{secrets.token_hex(3)}", ipam=docker.types.IPAMConfig(pool_configs=[pool])
    )
    try:
        site.until(lambda: "403 address_host" in get(site, f"10.219.{third}.1", port))
    finally:
        later.remove()
