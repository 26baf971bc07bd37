"""Programs that ignore the proxy: by default closed and seen, with `direct: allow` carried under the same policy.

The programs are real: Node 20's `fetch`, curl, a Python TLS socket. (mcp-server-fetch: `test_egress_live.py`.)
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from examples.demo import stage
from observability.events import Decision, EgressEvent, Phase, Reason, Via
from tests.e2e import programs
from tests.gateway.runtime.real import Yard, yard

pytestmark = pytest.mark.docker

NOWHERE = "198.51.100.7"
"""TEST-NET-2: nobody's address."""
NO_PROXY = {
    name: "" for each in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY") for name in (each, each.lower())
}

PRELUDE = """
import json, os, socket, ssl, subprocess
def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return done.stdout + done.stderr
def node(url):
    code = "fetch(process.argv[1]).then(async r => console.log(r.status, await r.text()))"
    return run("node", "-e", code + ".catch(e => console.log('failed', e.cause?.code ?? e.message))", url)
def tls(address, name, port=443):
    context = ssl.create_default_context()
    try:
        with socket.create_connection((address, port), timeout=10) as sock:
            with context.wrap_socket(sock, server_hostname=name) as inside:
                inside.sendall(f"GET / HTTP/1.1\\r\\nHost: {name}\\r\\nConnection: close\\r\\n\\r\\n".encode())
                return inside.makefile("rb").read().decode()
    except OSError as error:
        return f"failed {type(error).__name__}"
def plain(address, host):
    try:
        with socket.create_connection((address, 80), timeout=10) as sock:
            sock.sendall(f"GET / HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n".encode())
            return sock.makefile("rb").read().decode()
    except OSError as error:
        return f"failed {type(error).__name__}"
def look_up(name):
    try:
        return sorted({info[4][0] for info in socket.getaddrinfo(name, 443)})
    except socket.gaierror as error:
        return error.errno
"""


def network(*hosts: str) -> dict[str, Any]:
    return {"allowed_hosts": list(hosts), "direct": "allow"}


@pytest.fixture(scope="module")
def site(internet: stage.Internet, workspace: Path) -> Iterator[Yard]:
    """`closed` has the default; `open` may reach two hosts directly, `other` one of them."""
    with yard() as found:
        found.image = programs.image(found)
        resolve = [
            f"{host}:{port}:{internet.address}"
            for host in ("api.github.com", "direct.example", "evil.example")
            for port in (80, 443)
        ]
        found.up(
            {
                "closed": found.rogue(env=NO_PROXY, network={"allowed_hosts": ["direct.example", "api.github.com"]}),
                "open": found.rogue(env=NO_PROXY, network=network("direct.example", "api.github.com")),
                "other": found.rogue(env=NO_PROXY, network=network("direct.example", "api.github.com")),
            },
            egress={"resolve": resolve},
            extra_ca=str(workspace / "ca.pem"),
        )
        for backend in ("closed", "open", "other"):
            found.ask(PRELUDE, backend)
        yield found


def events(site: Yard, backend: str, **wanted: Any) -> list[EgressEvent]:
    """Decisions on that backend that look like this."""
    return [
        event
        for event in site.egress_events(backend)
        if event.phase is Phase.DECIDED and all(getattr(event, name) == value for name, value in wanted.items())
    ]


def wait_event(site: Yard, backend: str, **wanted: Any) -> EgressEvent:
    site.until(lambda: bool(events(site, backend, **wanted)))
    return events(site, backend, **wanted)[-1]


# --- the default


def test_nodes_fetch_is_answered_nxdomain_and_its_lookup_is_recorded(site: Yard) -> None:
    assert "ENOTFOUND" in site.ask("answer = node('https://node.evil.example/')", "closed")
    event = wait_event(site, "closed", host="node.evil.example", via=Via.DNS)
    assert (event.decision, event.reason) == (Decision.DENY, Reason.DIRECT_ATTEMPT)


def test_even_an_allowed_name_is_not_resolved_for_direct_use(site: Yard) -> None:
    assert site.ask("answer = look_up('api.github.com')", "closed") == -2
    assert wait_event(site, "closed", host="api.github.com", via=Via.DNS).reason is Reason.DIRECT_ATTEMPT


@pytest.mark.parametrize(
    ("program", "port", "name"),
    [
        (f"tls('{NOWHERE}', 'tls.evil.example')", 443, "tls.evil.example"),
        (f"plain('{NOWHERE}', 'plain.evil.example')", 80, "plain.evil.example"),
        (
            f"run('curl', '-sS', '--resolve', 'curl.evil.example:443:{NOWHERE}', 'https://curl.evil.example/')",
            443,
            "curl.evil.example",
        ),
        (f"node('http://{NOWHERE}/')", 80, NOWHERE),
    ],
    ids=["python tls", "plain http", "curl", "node by address"],
)
def test_a_direct_connection_is_closed_and_seen_with_what_it_showed(
    site: Yard, program: str, port: int, name: str
) -> None:
    assert "200" not in site.ask(f"answer = {program}", "closed")
    event = wait_event(site, "closed", host=name, via=Via.DIRECT)
    assert (event.destination, event.decision, event.reason) == (
        f"{NOWHERE}:{port}",
        Decision.DENY,
        Reason.DIRECT_ATTEMPT,
    )


def test_a_lookup_followed_by_a_proxied_request_is_no_attempt(site: Yard) -> None:
    """Many programs look a name up first and then use the proxy all the same."""
    reply = site.ask(
        """
        alone = look_up("lookup-alone.example"), look_up("direct.example")
        with socket.create_connection(("127.0.0.1", 3128)) as sock:
            sock.sendall(b"GET http://direct.example/ HTTP/1.1\\r\\nHost: direct.example\\r\\nConnection: close\\r\\n\\r\\n")
            answer = sock.makefile("rb").read().decode()
        """,
        "closed",
    )
    assert "hello from direct.example" in reply
    wait_event(site, "closed", host="lookup-alone.example", via=Via.DNS)
    assert not events(site, "closed", via=Via.DNS, host="direct.example")


def test_a_python_server_that_looks_up_its_own_machine_raises_no_alarm(site: Yard) -> None:
    """`HTTPServer` asks for the name of its machine when it starts, and a container without a network has it nowhere."""
    own, address, after = site.ask(
        """
        import http.server
        http.server.HTTPServer(("", 0), http.server.BaseHTTPRequestHandler).server_close()
        own = socket.gethostname()
        answer = own, look_up(own), look_up("after-own.example")
        """,
        "closed",
    )
    assert address == ["127.0.0.1"]
    assert after == -2
    wait_event(site, "closed", host="after-own.example", via=Via.DNS)
    looked_up = {event.host for event in events(site, "closed", via=Via.DNS)}
    assert not any(host == own or host.startswith(f"{own}.") or "localhost" in host for host in looked_up)


# --- direct: allow


@pytest.mark.parametrize(
    ("program", "port"),
    [
        ("node('https://direct.example/')", 443),
        ("node('http://direct.example/')", 80),
        ("run('curl', '-sS', 'https://direct.example/')", 443),
        ("tls('direct.example', 'direct.example')", 443),
        ("plain('direct.example', 'direct.example')", 80),
    ],
    ids=["node https", "node http", "curl", "python tls", "plain http"],
)
def test_an_unmodified_program_reaches_an_allowed_host(
    site: Yard, internet: stage.Internet, program: str, port: int
) -> None:
    before = len(events(site, "open", via=Via.DIRECT, decision=Decision.ALLOW, port=port))
    assert "hello from direct.example" in site.ask(f"answer = {program}", "open")
    site.until(lambda: len(events(site, "open", via=Via.DIRECT, decision=Decision.ALLOW, port=port)) > before)
    event = events(site, "open", via=Via.DIRECT, decision=Decision.ALLOW, port=port)[-1]
    assert (event.host, event.address, event.rule) == ("direct.example", internet.address, "direct.example")


def test_a_name_that_is_not_allowed_stays_unknown(site: Yard) -> None:
    assert "ENOTFOUND" in site.ask("answer = node('https://evil.example/')", "open")
    assert site.ask("answer = look_up('evil.example')", "open") == -2


def test_of_an_allowed_name_there_is_no_ipv6_answer(site: Yard) -> None:
    code = """
    try:
        answer = socket.getaddrinfo("direct.example", 443, socket.AF_INET6)
    except socket.gaierror as error:
        answer = error.errno
    """
    assert site.ask(code, "open") == socket.EAI_NODATA


@pytest.mark.parametrize(
    ("program", "shown"),
    [
        ("tls(ADDRESS, 'evil.example')", "evil.example"),
        ("plain(ADDRESS, 'evil.example')", "evil.example"),
        ("tls(ADDRESS, 'api.github.com')", "api.github.com"),
        (f"tls('{NOWHERE}', 'direct.example')", "direct.example"),
        (f"plain('{NOWHERE}', 'direct.example')", "direct.example"),
    ],
    ids=["denied sni", "denied host", "allowed, not looked up", "not its address, tls", "not its address, http"],
)
def test_a_name_that_does_not_fit_the_answered_address_stays_closed(
    site: Yard, internet: stage.Internet, engine: docker.DockerClient, program: str, shown: str
) -> None:
    arrived = len(stage.hits(engine, internet.name))
    site.ask(f"ADDRESS = '{internet.address}'; look_up('direct.example'); answer = {program}", "open")
    site.until(lambda: bool(events(site, "open", via=Via.DIRECT, host=shown, reason=Reason.DIRECT_ATTEMPT)))
    assert len(stage.hits(engine, internet.name)) == arrived


def test_an_address_without_a_name_needs_a_rule_for_the_address(site: Yard, internet: stage.Internet) -> None:
    site.ask(f"look_up('direct.example'); answer = plain('{internet.address}', '{internet.address}')", "open")
    assert wait_event(site, "open", via=Via.DIRECT, host=internet.address).reason is Reason.IP_NOT_ALLOWED


def test_an_address_answered_to_another_backend_is_of_no_use(site: Yard, internet: stage.Internet) -> None:
    """The policy would allow the name; this backend was never told the address."""
    assert site.ask("answer = look_up('direct.example')", "open") == [internet.address]
    assert "failed" in site.ask(f"answer = tls('{internet.address}', 'direct.example')", "other")
    assert wait_event(site, "other", via=Via.DIRECT, host="direct.example").reason is Reason.DIRECT_ATTEMPT
    assert "hello" in site.ask("answer = tls('direct.example', 'direct.example')", "other"), "once it asked, it may"
