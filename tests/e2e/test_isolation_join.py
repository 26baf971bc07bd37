"""`join`: one allowed workload on another network is reached, and nothing else there; nobody of ours but the
connector is on that network."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from gateway.runtime.engine.base import ContainerPlan, NetworkPlan
from observability.events import Decision, NoticeEvent, Via
from tests.gateway.runtime.real import Yard, yard

pytestmark = pytest.mark.docker

SERVE = """
import http.server, os
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ["NAME"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("", 80), Page).serve_forever()
"""


@dataclass
class Stray:
    """Somebody else's application: a network with two containers."""

    site: Yard
    network: str

    def addresses(self) -> dict[str, str]:
        """Container -> address."""
        found = {}
        for name in ("wanted", "other"):
            info = self.site.portal.call(self.site.engine.inspect, f"{self.network}-{name}")
            assert info is not None
            found[name] = info.addresses[0]
        return found


@pytest.fixture(scope="module")
def stray() -> Iterator[Stray]:
    with yard() as site:
        found = Stray(site, f"sktest{secrets.token_hex(3)}")
        engine, portal = site.engine, site.portal
        portal.call(engine.create_network, NetworkPlan(name=found.network))
        try:
            for name in ("wanted", "other"):
                plan = ContainerPlan(
                    name=f"{found.network}-{name}",
                    image=site.image,
                    command=("python3", "-u", "-c", SERVE),
                    env=(("NAME", name),),
                    network=found.network,
                    sysctls=(("net.ipv4.ip_unprivileged_port_start", "0"),),
                )
                portal.call(engine.start, portal.call(engine.create, plan))
            yield found
        finally:
            site.down()
            for name in ("wanted", "other"):
                portal.call(engine.remove, f"{found.network}-{name}")
            portal.call(engine.remove_network, found.network)


def get(site: Yard, host: str) -> str:
    """What the rogue gets from a host through the proxy."""
    answer: str = site.ask(
        f"""
        import socket
        with socket.create_connection(("127.0.0.1", 3128), timeout=15) as sock:
            sock.sendall(b"GET http://{host}/ HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n")
            answer = sock.makefile("rb").read(4000).decode()
        """
    )
    return answer


def test_the_allowed_workload_is_reached_and_the_other_is_not(stray: Stray) -> None:
    site, allowed = stray.site, f"{stray.network}-wanted"
    rules = [{"host": allowed, "private": True}]
    site.up({"rogue": site.rogue(network={"allowed_hosts": rules, "join": [stray.network]})})
    site.until(lambda: stray.network in site.sandbox.connectors.ready)
    assert get(site, allowed).endswith("wanted")
    assert get(site, f"{stray.network}-other").startswith("HTTP/1.1 403")
    for address in stray.addresses().values():
        assert get(site, address).startswith("HTTP/1.1 403")
        assert site.ask(f"import socket; answer = socket.socket().connect_ex(('{address}', 8080))") == 111


def test_only_the_connector_is_on_that_network(stray: Stray) -> None:
    site = stray.site
    network = site.portal.call(
        site.engine.call, "look", lambda api: api.inspect_network(stray.network)["Containers"].values()
    )
    names = {item["Name"] for item in network}
    assert names == {
        f"{stray.network}-wanted", f"{stray.network}-other", f"stockade-{site.project}-c-{stray.network}",
    }  # fmt: skip


def test_a_killed_connector_comes_back(stray: Stray) -> None:
    site = stray.site
    site.kill(f"stockade-{site.project}-c-{stray.network}")
    site.until(lambda: stray.network not in site.sandbox.connectors.ready)
    site.until(lambda: stray.network in site.sandbox.connectors.ready)
    assert get(site, f"{stray.network}-wanted").endswith("wanted")


STRAIGHT = """
import socket
try:
    address = socket.gethostbyname("{host}")
    with socket.create_connection((address, 80), timeout=15) as sock:
        sock.sendall(b"GET / HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n")
        answer = address, sock.makefile("rb").read(4000).decode()
except socket.gaierror as error:
    answer = "", str(error)
"""


def test_a_program_that_ignores_the_proxy_reaches_it_through_the_connector_too(stray: Stray) -> None:
    site, allowed = stray.site, f"{stray.network}-wanted"
    network = {"allowed_hosts": [{"host": allowed, "private": True}], "join": [stray.network], "direct": "allow"}
    site.portal.call(site.supervisor.apply, site.config({"rogue": site.rogue(network=network)}))
    address, page = site.ask(STRAIGHT.format(host=allowed))
    assert address == stray.addresses()["wanted"]
    assert page.endswith("wanted")
    (event, *_) = [e for e in site.egress_events() if e.via is Via.DIRECT and e.decision is Decision.ALLOW]
    assert (event.host, event.address) == (allowed, address)
    assert site.ask(STRAIGHT.format(host=f"{stray.network}-other"))[0] == ""
    other = stray.addresses()["other"]
    lie = STRAIGHT.format(host=allowed).replace(f'socket.gethostbyname("{allowed}")', f'"{other}"')
    assert site.ask(lie) == [other, ""], "its name does not fit that address"


def test_without_join_the_workload_is_out_of_reach_and_the_connector_is_gone(stray: Stray) -> None:
    site, allowed = stray.site, f"{stray.network}-wanted"
    rules = [{"host": allowed, "private": True}]
    site.ask(
        f"""
        import socket
        kept = socket.create_connection(("127.0.0.1", 3128), timeout=15)
        kept.sendall(b"CONNECT {allowed}:80 HTTP/1.1\\r\\nHost: {allowed}:80\\r\\n\\r\\n")
        assert b" 200 " in kept.recv(1000)
        """
    )
    site.portal.call(site.supervisor.apply, site.config({"rogue": site.rogue(network={"allowed_hosts": rules})}))
    assert site.ask("answer = kept.recv(1000).decode()") == "", "a connection made there is cut"
    assert "200" not in get(site, allowed).partition("\r\n")[0]
    assert f"stockade-{site.project}-c-{stray.network}" not in site.containers()


def test_a_network_that_is_not_there_is_said_once_with_the_way_out(stray: Stray) -> None:
    site = stray.site
    network = {"allowed_hosts": [{"host": "x.internal", "private": True}], "join": ["no_such_network"]}
    site.portal.call(site.supervisor.apply, site.config({"rogue": site.rogue(network=network)}))

    def told() -> list[str]:
        return [e.message for e in site.events if isinstance(e, NoticeEvent) and e.code == "connector_failed"]

    site.until(lambda: bool(told()))
    assert "docker network create no_such_network" in told()[-1]
