"""Backends behind a corporate proxy: all that is allowed goes through Debian's squid, with its password."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.demo import stage
from observability.events import Decision, Reason
from registry.secrets import SecretStore
from tests.e2e.squid import PASSWORD, USER, Parent, squid
from tests.e2e.stockade_process import until
from tests.gateway.runtime.real import NoSecrets, Yard, yard

pytestmark = pytest.mark.docker

HELPERS = """
import socket, ssl
def connect(host):
    sock = socket.create_connection(("127.0.0.1", 3128), timeout=20)
    sock.sendall(f"CONNECT {host}:443 HTTP/1.1\\r\\nHost: {host}:443\\r\\n\\r\\n".encode())
    status = sock.recv(4096).decode().partition("\\r\\n")[0]
    if " 200 " not in status:
        return status
    with ssl.create_default_context().wrap_socket(sock, server_hostname=host) as tls:
        tls.sendall(f"GET / HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n".encode())
        return tls.makefile("rb").read().decode()
def get(host):
    with socket.create_connection(("127.0.0.1", 3128), timeout=20) as sock:
        sock.sendall(f"GET http://{host}/ HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n".encode())
        return sock.makefile("rb").read().decode()
"""


@pytest.fixture(scope="module")
def parent(workspace: Path, internet: stage.Internet) -> Iterator[Parent]:
    """On an address of this machine; only it can resolve the names."""
    names = ("api.github.com", "direct.example", "evil.example")
    with squid(workspace / "squid", internet.address, dict.fromkeys(names, internet.container_address)) as found:
        yield found


@pytest.fixture(scope="module")
def site(workspace: Path, internet: stage.Internet, parent: Parent) -> Iterator[Yard]:
    with yard() as found, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STOCKADE_TEST_PROXY", PASSWORD)
        patch.setattr(NoSecrets, "resolve", lambda self, values, **more: SecretStore().resolve(values, **more))
        found.up(
            {
                "rogue": found.rogue(
                    network={"allowed_hosts": ["api.github.com", "direct.example"], "direct": "allow"}
                )
            },
            egress={
                "upstream_proxy": f"http://{USER}:${{env:STOCKADE_TEST_PROXY}}@{internet.address}:{parent.port}",
                "no_proxy": ["direct.example"],
                "resolve": [f"direct.example:{port}:{internet.address}" for port in (80, 443)],
            },
            extra_ca=str(workspace / "ca.pem"),
        )
        found.ask(HELPERS)
        yield found


@pytest.mark.parametrize("way", ["connect", "get"])
def test_an_allowed_host_is_reached_through_the_parent(site: Yard, parent: Parent, way: str) -> None:
    assert "hello from api.github.com" in site.ask(f"answer = {way}('api.github.com')")
    word = {"connect": "CONNECT api.github.com:443", "get": "GET http://api.github.com"}[way]
    until(lambda: any(word in line and f" {USER} " in line for line in parent.lines()), "squid's log")


def test_no_proxy_goes_straight_and_a_denied_host_nowhere(site: Yard, parent: Parent) -> None:
    assert "hello from direct.example" in site.ask("answer = connect('direct.example')")
    assert "403 host_not_allowed" in site.ask("answer = connect('evil.example')")
    assert "ip_not_allowed" in site.ask("answer = connect('169.254.169.254')")
    assert not [line for line in parent.lines() if "direct.example" in line or "evil" in line or "169.254" in line]


def test_the_parent_itself_is_out_of_a_backends_reach(site: Yard, internet: stage.Internet, parent: Parent) -> None:
    """Neither directly nor by asking for it, and its password is nowhere inside."""
    assert site.ask(f"answer = socket.socket().connect_ex(('{internet.address}', {parent.port}))") == 111
    asked = f"{internet.address}:{parent.port}"
    assert "403" in site.ask(f"answer = get('{asked}')")
    assert "gate" not in site.ask("import os; answer = str(os.environ) + open('/proc/1/environ').read()")


def test_a_wrong_sni_does_not_pass_behind_a_parent_either(site: Yard) -> None:
    code = """
    sock = socket.create_connection(("127.0.0.1", 3128), timeout=20)
    sock.sendall(b"CONNECT api.github.com:443 HTTP/1.1\\r\\nHost: api.github.com:443\\r\\n\\r\\n")
    sock.recv(4096)
    try:
        ssl.create_default_context().wrap_socket(sock, server_hostname="evil.example")
        answer = "reached"
    except OSError:
        answer = "cut"
    """
    assert site.ask(code) == "cut"
    site.until(lambda: any(e.reason is Reason.SNI_MISMATCH for e in site.egress_events()))
    assert not [e for e in site.egress_events() if e.host == "evil.example" and e.decision is Decision.ALLOW]


def test_a_parent_that_is_away_is_said(site: Yard, internet: stage.Internet) -> None:
    config = site.config(
        {"rogue": site.rogue(network={"allowed_hosts": ["api.github.com"]})},
        egress={"upstream_proxy": f"http://{USER}@{internet.address}:9"},
        extra_ca=site.supervisor.config.extra_ca,
    )
    site.portal.call(site.supervisor.apply, config)
    assert site.ask("answer = connect('api.github.com')") == "HTTP/1.1 502 upstream_proxy_failed"
    assert "p@ss" not in str(site.events)
