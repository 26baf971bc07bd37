"""Event and log streams over a real control socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.control import streams
from gateway.control.apps import control_app
from gateway.control.listen import bind_unix
from gateway.runtime.sandbox.log_ring import LogLine
from tests.gateway.control.fakes import FakeControl, egress_event, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
async def api(control: FakeControl, tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    path = tmp_path / "control.sock"
    transport = httpx2.AsyncHTTPTransport(uds=str(path))
    async with (
        asyncio.timeout(60),
        serving(control_app(control), bind_unix(path)),
        httpx2.AsyncClient(transport=transport, base_url="http://localhost/api/v1/", timeout=10) as client,
    ):
        yield client
        control.hub.close()


class Reader:
    """The fields of each event, as a browser sees them."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        async for line in self._lines:
            if not line and fields:
                return fields
            name, _, value = line.partition(":")
            if line and name:
                fields[name] = value.strip()
            elif line:
                fields["comment"] = value.strip()
        raise EOFError


@asynccontextmanager
async def following(api: httpx2.AsyncClient, path: str, **headers: str) -> AsyncIterator[Reader]:
    async with api.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        reader = Reader(response)
        assert await reader.next() == {"comment": "stockade"}
        yield reader


def events(control: FakeControl, count: int, **changes: Any) -> None:
    for n in range(count):
        control.hub.publish(egress_event(seq=n + 1, connection=n + 1, **changes))


async def nobody_follows(control: FakeControl) -> None:
    """Bounded by the fixture's timeout."""
    while control.hub.subscribers:  # the hub has no event for it
        await asyncio.sleep(0)


async def test_a_follower_gets_each_event_with_its_number(api: httpx2.AsyncClient, control: FakeControl) -> None:
    async with following(api, "events?follow=1") as reader:
        events(control, 2)
        first, second = await reader.next(), await reader.next()
    assert (first["id"], second["id"]) == ("1", "2")
    assert json.loads(first["data"])["host"] == "evil.example"


async def test_a_follower_resumes_where_it_was(api: httpx2.AsyncClient, control: FakeControl) -> None:
    events(control, 5)
    async with following(api, "events?follow=1", **{"Last-Event-ID": "3"}) as reader:
        assert (await reader.next())["id"] == "4"
    async with following(api, "events?follow=1&since=4") as reader:
        assert (await reader.next())["id"] == "5"


async def test_only_what_was_asked_for_comes(api: httpx2.AsyncClient, control: FakeControl) -> None:
    async with following(api, "events?follow=1&backend=fetch&type=egress&decision=deny") as reader:
        events(control, 1, backend="other")
        events(control, 1)
        assert (await reader.next())["id"] == "2"


async def test_a_follower_that_is_too_slow_is_told_what_it_lost(
    api: httpx2.AsyncClient, control: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BUFFER", 3)
    async with following(api, "events?follow=1") as reader:
        events(control, 10)
        gap = await reader.next()
        assert (gap["event"], json.loads(gap["data"])) == ("gap", {"dropped": 7})
        assert (await reader.next())["id"] == "8"


async def test_a_follower_that_leaves_is_forgotten(api: httpx2.AsyncClient, control: FakeControl) -> None:
    async with following(api, "events?follow=1"):
        assert control.hub.subscribers == 1
    await nobody_follows(control)


async def test_streams_are_bounded(
    api: httpx2.AsyncClient, control: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_STREAMS", 1)
    async with following(api, "events?follow=1"):
        response = await api.get("events?follow=1")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "too_many_streams")
    await nobody_follows(control)
    async with following(api, "events?follow=1"):
        pass


async def test_a_quiet_stream_has_a_heartbeat(
    api: httpx2.AsyncClient, control: FakeControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_S", 0.01)
    async with following(api, "events?follow=1") as reader:
        assert "ping" in (await reader.next())["comment"]


async def test_the_stream_ends_when_the_gateway_stops(api: httpx2.AsyncClient, control: FakeControl) -> None:
    async with following(api, "events?follow=1") as reader:
        control.hub.close()
        with pytest.raises(EOFError):
            await reader.next()


async def test_logs_are_followed(api: httpx2.AsyncClient, control: FakeControl) -> None:
    async with following(api, "backends/fetch/logs?tail=1&follow=1") as reader:
        assert json.loads((await reader.next())["data"])["text"] == "line 4"
        control.supervisor.more.put_nowait(LogLine(time=0, stream="stdout", text="two\nlines\r\ndata: x"))
        assert json.loads((await reader.next())["data"])["text"] == "two\nlines\r\ndata: x"
        control.supervisor.more.put_nowait(None)
        with pytest.raises(EOFError):
            await reader.next()


async def test_the_socket_is_not_open_to_others_while_it_serves(api: httpx2.AsyncClient, tmp_path: Path) -> None:
    assert (await api.get("status")).status_code == 200
    assert (tmp_path / "control.sock").stat().st_mode & 0o777 == 0o600
