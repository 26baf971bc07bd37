"""A hostile server fills the buffers of thousands of sockets: no more of them than it may have memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.runtime.docker.cgroup import MEMORY, group_of
from tests.gateway.runtime.real import Yard, yard

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0 or not MEMORY.is_dir(), reason="needs root and cgroup v1"),
]

LIMIT = 128 * 1024 * 1024
TCP = """
import contextlib, socket
held = []
for number in range(100):
    with contextlib.suppress(OSError):
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname(), timeout=3)
        held += [server, client, server.accept()[0]]
for one in held:
    with contextlib.suppress(OSError):
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        while True:
            one.send(bytes(65536))
"""
UDP = """
import contextlib, socket
held, sender = [], socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.setblocking(False)
for number in range(3000):
    with contextlib.suppress(OSError):
        held.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        held[-1].bind(("127.0.0.1", 0))
        for _ in range(4):
            sender.sendto(bytes(60000), held[-1].getsockname())
"""


@pytest.fixture
def site() -> Iterator[Yard]:
    with yard() as found:
        found.up({"evil": found.rogue(resources={"memory": LIMIT})})
        yield found


def group(site: Yard) -> Path:
    """The memory group of the hostile server's container."""
    info = site.portal.call(site.engine.inspect, site.pair("evil").container)
    assert info is not None
    found = group_of(info.id, info.pid)
    assert found is not None
    return found


def held(site: Yard) -> int:
    """The bytes that its sockets hold."""
    return int((group(site) / "memory.kmem.tcp.usage_in_bytes").read_text())


@pytest.mark.parametrize("code", [TCP, UDP], ids=["TCP", "UDP"])
def test_sockets_buffer_no_more_than_the_memory_limit(site: Yard, code: str) -> None:
    site.ask(code, "evil", 120)
    assert LIMIT // 2 < held(site) < LIMIT * 1.1, "filled, and not beyond"


def test_the_limit_is_there_again_in_the_next_life(site: Yard) -> None:
    site.ask("answer = 1", "evil")
    container = site.pair("evil").container
    site.kill(container)
    site.ask(TCP, "evil", 120)
    assert site.pair("evil").container == container, "the same container, started again"
    assert LIMIT // 2 < held(site) < LIMIT * 1.1
