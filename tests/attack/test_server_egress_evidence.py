"""A server that floods the egress with events washes away its own evidence and nobody else's."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from egress.service.control import Control
from gateway.runtime.inventory.egress_link import EgressLink
from observability.events import EgressEvent, NoticeEvent, Reason
from tests.attack.egress_world import CALM, LOUD, World, world
from tests.egress.harness import OK, http_server, upstream
from tests.egress.sockets import LOOPS

pytestmark = pytest.mark.anyio

ROOM = 500
FLOOD = 3000
AT_ONCE = 50


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


async def denied(running: World, backend: str, names: list[str]) -> None:
    """Ask for names that no policy has, on one connection."""
    reader, writer = await running.connect(backend)
    for start in range(0, len(names), AT_ONCE):
        some = names[start : start + AT_ONCE]
        for name in some:
            writer.write(f"GET http://{name}/ HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
        for _ in some:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 403"), head
            length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length:"))
            await reader.readexactly(int(length.partition(b":")[2]))
    writer.close()


async def test_what_a_calm_server_did_outlives_the_flood_of_another_while_the_gateway_is_away() -> None:
    events: list[EgressEvent | NoticeEvent] = []
    with tempfile.TemporaryDirectory(prefix="sk") as name:
        async with upstream(http_server(OK)) as port, world(port, capacity=ROOM) as running:
            await denied(running, CALM, ["stolen.example"])
            await denied(running, LOUD, [f"noise-{number}.example" for number in range(FLOOD)])
            control = Control(asyncio.get_running_loop(), running.egress)
            await control.listen(Path(name) / "egress.sock")
            link = EgressLink(Path(name), on_event=events.append)
            task = asyncio.ensure_future(link.run())
            async with asyncio.timeout(30):
                while link.seq < running.egress.recorder.seq:
                    await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            control.close()
    told = [event for event in events if isinstance(event, EgressEvent)]
    assert [event.host for event in told if event.backend == CALM] == ["stolen.example"]
    assert {event.reason for event in told} == {Reason.HOST_NOT_ALLOWED}
    lost = [event for event in events if isinstance(event, NoticeEvent) and event.code == "events_dropped"]
    assert {event.backend for event in lost} == {LOUD}
    assert sum(event.count for event in lost) + len(told) == FLOOD + 1, "every loss is counted"
