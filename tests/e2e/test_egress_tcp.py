"""`protocol: tcp`: a real psql in a backend, real PostgreSQL servers outside, one address made up per name."""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import docker
import docker.types
import pytest

from egress.listener.nameserver import SYNTHETIC
from observability.events import Decision, EgressEvent, Phase, Reason, Via
from tests.e2e import programs
from tests.gateway.runtime.real import Yard, yard

pytestmark = pytest.mark.docker

PRELUDE = """
import os, socket, subprocess
os.environ.update(PGPASSWORD="secret", PGCONNECT_TIMEOUT="5")
def sql(host, query="show cluster_name", port=5432):
    done = subprocess.run(["psql", "-h", host, "-p", str(port), "-U", "postgres", "-tAc", query],
                          capture_output=True, text=True, timeout=20)
    return (done.stdout + done.stderr).strip()
def look_up(name):
    try:
        return socket.gethostbyname(name)
    except OSError:
        return ""
"""
ORDERS, PEOPLE, SECRET = "orders.example", "people.example", "secret.example"


@dataclass
class Databases:
    """A backend with a client; two databases behind published ports, two more on a network that is joined."""

    site: Yard
    networks: list[str]
    addresses: list[str]


@pytest.fixture(scope="module")
def databases(engine: docker.DockerClient) -> Iterator[Databases]:
    """Each of the two networks has its own address on this machine, at which its first database is published."""
    with yard() as site, contextlib.ExitStack() as stack:
        image, tag = programs.image(site), secrets.token_hex(3)
        networks = [engine.networks.create(f"stkdb{tag}-{number}") for number in (1, 2)]
        for network in networks:
            stack.callback(network.remove)
            network.reload()
        names = [str(network.name) for network in networks]
        addresses = [str(network.attrs["IPAM"]["Config"][0]["Gateway"]) for network in networks]
        for name, network, publish in (
            ("orders", names[0], addresses[0]),
            ("people", names[1], addresses[1]),
            ("joined", names[0], ""),
            ("unnamed", names[0], ""),
        ):
            stack.callback(remove, engine, f"{network}-{name}")
            programs.start_database(engine, image, name, network, publish)
        site.image = image
        stack.callback(site.down)
        site.up({"app": site.rogue(network=policy(names[0]))}, egress={"resolve": resolve(addresses)})
        site.until(lambda: names[0] in site.sandbox.connectors.ready)
        site.ask(PRELUDE, "app")
        yield Databases(site, names, addresses)


def remove(engine: docker.DockerClient, name: str) -> None:
    with contextlib.suppress(docker.errors.NotFound):
        engine.containers.get(name).remove(force=True, v=True)


def policy(network: str) -> dict[str, Any]:
    """Two databases by override, one on a joined network; `secret.example` and the fourth are not named."""
    return {
        "allowed_hosts": [
            {"host": ORDERS, "port": 5432, "protocol": "tcp"},
            {"host": PEOPLE, "port": 5432, "protocol": "tcp"},
            {"host": f"{network}-joined", "port": 5432, "protocol": "tcp", "private": True},
        ],
        "join": [network],
    }


def resolve(addresses: list[str]) -> list[str]:
    return [f"{ORDERS}:5432:{addresses[0]}", f"{PEOPLE}:5432:{addresses[1]}", f"{SECRET}:5432:{addresses[0]}"]


def decided(site: Yard, **wanted: Any) -> list[EgressEvent]:
    return [
        event
        for event in site.egress_events("app")
        if event.phase is Phase.DECIDED and all(getattr(event, name) == value for name, value in wanted.items())
    ]


def test_an_unmodified_client_reaches_each_database_by_its_name(databases: Databases) -> None:
    site = databases.site
    assert site.ask(f"answer = sql('{ORDERS}'), sql('{PEOPLE}')", "app") == ["orders", "people"]
    site.until(lambda: len(decided(site, via=Via.TCP, decision=Decision.ALLOW)) >= 2)
    found = {(e.host, e.address, e.rule) for e in decided(site, via=Via.TCP, decision=Decision.ALLOW)}
    assert {host for host, _, _ in found} == {ORDERS, PEOPLE}
    assert {address for _, address, _ in found} == set(databases.addresses)


def test_each_name_has_an_address_of_its_own_that_is_nobodys(databases: Databases) -> None:
    first, second = (databases.site.ask(f"answer = look_up('{name}')", "app") for name in (ORDERS, PEOPLE))
    assert first != second
    assert all(ipaddress.ip_address(address) in SYNTHETIC for address in (first, second))
    assert databases.site.ask(f"answer = sql('{second}')", "app") == "people", "the address alone says the name"


def test_much_data_goes_both_ways_unharmed(databases: Databases) -> None:
    query = "select md5(string_agg(i::text, '')) from generate_series(1, 200000) i"
    code = f"""
    import hashlib
    numbers = [str(i) for i in range(1, 200001)]
    rows = sql("{ORDERS}", "select i from generate_series(1, 200000) i").split()
    asked = sql("{ORDERS}", "select length('" + "x" * 100_000 + "')")
    answer = rows == numbers, asked, sql("{ORDERS}", "{query}") == hashlib.md5("".join(numbers).encode()).hexdigest()
    """
    assert databases.site.ask(code, "app") == [True, "100000", True]


def test_a_database_on_a_joined_network_is_reached_by_that_networks_name(databases: Databases) -> None:
    assert databases.site.ask(f"answer = sql('{databases.networks[0]}-joined')", "app") == "joined"


@pytest.mark.parametrize("name", [SECRET, "NETWORK-unnamed"])
def test_a_name_that_the_policy_does_not_name_is_not_even_resolved(databases: Databases, name: str) -> None:
    name = name.replace("NETWORK", databases.networks[0])
    assert "could not translate host name" in databases.site.ask(f"answer = sql('{name}')", "app")
    proxied = f"""
    with socket.create_connection(("127.0.0.1", 3128)) as sock:
        sock.sendall(b"CONNECT {name}:5432 HTTP/1.1\\r\\nHost: {name}:5432\\r\\n\\r\\n")
        answer = sock.recv(200).decode()
    """
    assert "host_not_allowed" in databases.site.ask(proxied, "app")


def test_the_databases_own_addresses_are_closed(databases: Databases) -> None:
    """Only the name leads there, not the address, whoever knows it."""
    site = databases.site
    for address in databases.addresses:
        assert "closed the connection" in site.ask(f"answer = sql('{address}')", "app")
        site.until(lambda address=address: bool(decided(site, destination=f"{address}:5432", decision=Decision.DENY)))  # type: ignore[misc]


def test_another_port_of_the_name_is_closed(databases: Databases) -> None:
    site = databases.site
    assert "refused" in site.ask(f"answer = sql('{ORDERS}', port=5433)", "app"), "nobody listens: refused at once"
    assert "closed the connection" in site.ask(f"answer = sql('{ORDERS}', port=443)", "app"), "listened on, not named"
    site.until(lambda: bool(decided(site, host=ORDERS, port=443, reason=Reason.PORT_NOT_ALLOWED)))


def test_a_made_up_address_that_was_never_given_leads_nowhere(databases: Databases) -> None:
    site, address = databases.site, str(SYNTHETIC[4000])
    assert "closed the connection" in site.ask(f"answer = sql('{address}')", "app")
    site.until(lambda: bool(decided(site, destination=f"{address}:5432", decision=Decision.DENY)))


def test_a_database_taken_out_of_the_policy_is_cut_while_in_use(databases: Databases) -> None:
    """A query that runs is cut, its reason is `policy_revoked`, and the name is unknown from then on."""
    site = databases.site
    site.ask(
        f"""
        sleeper = subprocess.Popen(["psql", "-h", "{PEOPLE}", "-U", "postgres", "-c", "select pg_sleep(60)"],
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        """,
        "app",
    )
    site.until(lambda: len(decided(site, host=PEOPLE, via=Via.TCP)) > 0)
    running = "select count(*) from pg_stat_activity where query like 'select pg_sleep%'"
    site.until(lambda: site.ask(f'answer = sql("{PEOPLE}", "{running}")', "app") == "1")
    block = policy(databases.networks[0])
    block["allowed_hosts"] = [rule for rule in block["allowed_hosts"] if rule["host"] != PEOPLE]
    config = site.config({"app": site.rogue(network=block)}, egress={"resolve": resolve(databases.addresses)})
    site.portal.call(site.supervisor.apply, config)
    assert "server closed the connection" in site.ask("answer = sleeper.communicate(timeout=10)[0]", "app")
    site.until(lambda: any(e.host == PEOPLE and e.reason is Reason.POLICY_REVOKED for e in site.egress_events("app")))
    assert site.ask(f"answer = look_up('{PEOPLE}'), sql('{ORDERS}')", "app") == ["", "orders"]
