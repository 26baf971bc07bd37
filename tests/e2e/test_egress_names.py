"""A real DNS server (`egress.resolvers`) that lies: what it answers is checked, and what is denied it never hears."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest

from egress.net.resolver import RESOLVING
from gateway.runtime.plan.plans import Names, connector_plan, egress_plan
from tests.e2e.stockade_process import until
from tests.gateway.runtime.real import Yard, yard

pytestmark = pytest.mark.docker

SERVER = """
import os, socket, struct
ANSWERS = eval(os.environ["ANSWERS"])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("0.0.0.0", 53))
print("READY", flush=True)
while True:
    data, client = sock.recvfrom(2048)
    labels, at = [], 12
    while data[at]:
        labels.append(data[at + 1:at + 1 + data[at]].decode("latin-1"))
        at += 1 + data[at]
    name, kind = ".".join(labels).lower(), struct.unpack_from(">H", data, at + 1)[0]
    print("ASKED", name, flush=True)
    found = [a for a in ANSWERS.get(name, ()) if (":" in a) == (kind == 28)] if kind in (1, 28) else []
    code = 0 if name in ANSWERS else 3
    packed = [socket.inet_pton(socket.AF_INET6 if ":" in a else socket.AF_INET, a) for a in found]
    records = b"".join(struct.pack(">HHHIH", 0xC00C, kind, 1, 1, len(p)) + p for p in packed)
    header = data[:2] + struct.pack(">5H", 0x8180 | code, 1, len(packed), 0, 0)
    sock.sendto(header + data[12:at + 5] + records, client)
"""
LIES = {
    "private.example": (["10.1.2.3"], "address_private"),
    "metadata.example": (["169.254.169.254"], "address_metadata"),
    "loopback.example": (["127.0.0.1"], "address_loopback"),
    "cgnat.example": (["100.64.0.9"], "address_cgnat"),
    "mapped.example": (["::ffff:10.1.2.3"], "address_"),
    "nat64.example": (["64:ff9b::a01:203"], "address_embedded"),
    "mixed.example": (["203.0.113.9", "10.1.2.3"], "address_"),
    "host.example": (["HOST"], "address_host"),
    "none.example": ([], "dns_failed"),
}
LAST = "last.example"
"""A name that may be looked up, and is when all before it must have been seen."""


@dataclass
class Lying:
    site: Yard
    server: docker.models.containers.Container
    address: str

    def asked(self) -> set[str]:
        """The names that came to the DNS server, as far as the engine has written its log."""
        return {line.split()[1] for line in self.server.logs().decode().splitlines() if line.startswith("ASKED")}

    def asked_until(self, last: str) -> set[str]:
        """The same, once this name is among them: the log comes in order, a moment later."""
        until(lambda: last in self.asked(), f"{last} at the DNS server")
        return self.asked()


@pytest.fixture(scope="module")
def lying(engine: docker.DockerClient) -> Iterator[Lying]:
    with yard() as site:
        name = f"stkdns{secrets.token_hex(3)}"
        network = engine.networks.create(name)
        network.reload()
        address = network.attrs["IPAM"]["Config"][0]["Gateway"]
        answers = {host: [a.replace("HOST", address) for a in given] for host, (given, _) in LIES.items()}
        server = engine.containers.run(
            site.image,
            ["python3", "-u", "-c", SERVER],
            name=name,
            network=name,
            user="0",
            detach=True,
            environment={"ANSWERS": repr(answers)},
            ports={"53/udp": (address, 53)},
        )
        try:
            until(lambda: b"READY" in server.logs(), "the DNS server")
            network_block = {"allowed_hosts": [*LIES, "absent.example", LAST]}
            site.up({"rogue": site.rogue(network=network_block)}, egress={"resolvers": [address]})
            yield Lying(site, server, address)
        finally:
            site.down()
            server.remove(force=True)
            network.remove()


def connect(site: Yard, host: str) -> str:
    answer: str = site.ask(
        f"""
        import socket
        with socket.create_connection(("127.0.0.1", 3128), timeout=20) as sock:
            sock.sendall(b"CONNECT {host}:443 HTTP/1.1\\r\\nHost: {host}:443\\r\\n\\r\\n")
            answer = sock.recv(4096).decode().partition("\\r\\n")[0]
        """
    )
    return answer


@pytest.mark.parametrize("host", LIES)
def test_an_allowed_name_that_leads_inside_is_denied(lying: Lying, host: str) -> None:
    assert f" {LIES[host][1]}" in connect(lying.site, host)
    assert host in lying.asked_until(host)


def test_a_name_that_does_not_exist_is_said(lying: Lying) -> None:
    assert connect(lying.site, "absent.example") == "HTTP/1.1 502 dns_failed"


def test_a_denied_name_is_never_looked_up_whoever_asks(lying: Lying) -> None:
    """Neither through the proxy nor by a lookup of the backend's own."""
    assert "403 host_not_allowed" in connect(lying.site, "proxied-secret.example")
    outcome = lying.site.ask(
        """
        import socket
        try:
            answer = socket.gethostbyname("looked-up-secret.example")
        except OSError as error:
            answer = error.errno
        """
    )
    assert outcome == -2
    connect(lying.site, LAST)
    assert lying.asked_until(LAST) <= {*LIES, "absent.example", LAST}


def test_no_search_domain_of_the_host_completes_a_name(lying: Lying, engine: docker.DockerClient) -> None:
    """Or `secret.allowed.example` would be asked of, and found at, `secret.allowed.example.corp.example`."""
    for label, environment in (("plain", {}), ("ours", dict(RESOLVING))):
        engine.containers.run(
            lying.site.image,
            [
                "python3",
                "-c",
                f"import socket\ntry: socket.getaddrinfo('{label}.example', 443)\nexcept OSError: pass",
            ],
            network=lying.server.name,
            dns=[lying.address],
            dns_search=["corp.example"],
            environment=environment,
            remove=True,
        )
    connect(lying.site, LAST)
    asked = lying.asked_until("ours.example")
    assert "plain.example.corp.example" in asked, "this test would see it"
    assert "ours.example.corp.example" not in asked
    for plan in (
        egress_plan(Names(project="p"), "e", Path("/c"), Path("/d"), 1024, 70001),
        connector_plan(
            Names(project="p"), "n", "i", "e", Path("/d"), nonce="nonce", generation=1, nofile=1024, uid=70002
        ),
    ):
        assert RESOLVING.items() <= dict(plan.env).items()
