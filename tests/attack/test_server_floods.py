"""A hostile server floods every channel that it has with the smallest pieces (red team B3).

The gateway serves all from one loop. What is counted here is the work that one server makes in one turn of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from gateway.mcp.call.messages import Call
from gateway.mcp.upstream.server_messages import ServerMessages
from gateway.mcp.upstream.stdio import StdioPeer
from gateway.mcp.view.pins import Pins
from gateway.mcp.wire import http_client
from gateway.mcp.wire.coalesce import Coalesced
from gateway.mcp.wire.http_client import Connection, Pool
from gateway.mcp.wire.tasks import Tasks
from gateway.pace import PRICE_GARBAGE_S, PRICE_NOTIFICATION_S, PRICE_REQUEST_S, TURN_S, Pace
from gateway.runtime.docker.attach import PRICE_FRAME_S, PRICE_LINE_S, STEP, BoundedReader, FrameProtocol
from gateway.runtime.sandbox.log_ring import LogLine
from observability.events import Event, NoticeEvent, ToolEvent
from registry.model.fields import Pin

pytestmark = pytest.mark.anyio


class Turns:
    """Counts the turns of the loop while it is open."""

    def __init__(self) -> None:
        self.number = 0
        self._handle: asyncio.Handle | None = None

    def __enter__(self) -> Turns:
        self._tick()
        return self

    def _tick(self) -> None:
        self.number += 1
        self._handle = asyncio.get_running_loop().call_soon(self._tick)

    def __exit__(self, *_: object) -> None:
        assert self._handle is not None
        self._handle.cancel()


class Heard:
    """A sink that notes in which turn it heard what."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.by_turn: Counter[int] = Counter()
        self.garbage_calls = self.garbage = 0

    def on_notification(self, peer: Any, method: str, params: dict[str, Any], call: Call | None) -> None:
        self.by_turn[self.turns.number] += 1

    async def on_request(self, peer: Any, method: str, params: dict[str, Any], call: Call | None) -> dict[str, Any]:
        return {}

    def on_closed(self, peer: Any, why: str) -> None:
        pass

    def on_garbage(self, peer: Any, what: str, count: int = 1) -> None:
        self.garbage_calls += 1
        self.garbage += count
        self.by_turn[self.turns.number] += 1


class Writer:
    """The backend's input, of which each answer is counted in its turn."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.by_turn: Counter[int] = Counter()
        self.transport = self

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        self.by_turn[self.turns.number] += 1

    def close(self) -> None:
        pass


LIST_CHANGED = b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n'
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
KINDS = [
    pytest.param(LIST_CHANGED, PRICE_NOTIFICATION_S, id="notifications"),
    pytest.param(PING, PRICE_REQUEST_S, id="requests"),
    pytest.param(b"{x\n", PRICE_GARBAGE_S, id="broken-json"),
    pytest.param(b'{"id":-1}\n', PRICE_GARBAGE_S, id="answers-to-nobody"),
]


async def flooded(text: bytes, enough: int) -> tuple[Heard, Writer]:
    """A peer whose backend wrote all this, once it has been read or `enough` was heard of."""
    reader = asyncio.StreamReader()
    reader.feed_data(text)
    reader.feed_eof()
    tasks = Tasks()
    with Turns() as turns:
        heard, writer = Heard(turns), Writer(turns)
        peer = StdioPeer(reader, writer, heard, tasks, door="")  # type: ignore[arg-type]
        async with asyncio.timeout(30):
            while not peer.closed and heard.by_turn.total() + writer.by_turn.total() < enough:
                await asyncio.sleep(0)
    await tasks.close()
    return heard, writer


@pytest.mark.parametrize(("piece", "price_s"), KINDS)
async def test_no_turn_of_the_loop_takes_more_messages_than_it_pays_for(piece: bytes, price_s: float) -> None:
    heard, writer = await flooded(piece * 4_000, enough=500)
    most = round(TURN_S / price_s) + 1
    assert max([*heard.by_turn.values(), *writer.by_turn.values(), 0]) <= most
    assert heard.by_turn.total() + writer.by_turn.total() < 4_000 or piece.startswith(b'{"id"'), "it must rest"


@pytest.mark.parametrize("piece", [b"\n", b"x\n", b" \r\n"], ids=["empty", "garbage", "blank"])
async def test_lines_that_are_no_messages_are_passed_over_in_bulk(piece: bytes) -> None:
    count = 500_000 // len(piece)
    heard, _ = await flooded(piece * count, enough=10**9)
    assert heard.garbage == (count if piece == b"x\n" else 0)
    assert heard.garbage_calls <= 500_000 // (16 * 1024) + 1, "once a chunk, not once a line"


def frame(stream: int, payload: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


class Transport:
    """The engine's connection."""

    paused = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


def jumping() -> Any:
    """A clock on which every rest is over at once."""
    now = [0.0]

    def clock() -> float:
        now[0] += 10.0
        return now[0]

    return clock


@pytest.mark.parametrize(
    ("wire", "lines"),
    [
        (frame(2, b"x\n" * 20_000), 20_000),
        (frame(2, b"x\n") * 20_000, 20_000),
        (frame(2, b"") * 20_000 + frame(2, b"x\n"), 1),
    ],
    ids=["short-lines", "tiny-frames", "empty-frames"],
)
async def test_standard_error_is_taken_apart_turn_by_turn_and_no_line_is_lost(wire: bytes, lines: int) -> None:
    found: list[LogLine] = []
    protocol = FrameProtocol(BoundedReader(), found.append, stdout_lines=False, pace=Pace(jumping()))
    transport = Transport()
    protocol.connection_made(transport)  # type: ignore[arg-type]
    protocol.data_received(b"HTTP/1.1 101 UPGRADED\r\n\r\n" + wire)
    assert len(found) <= TURN_S / PRICE_LINE_S + STEP // 2
    assert len(wire) - len(protocol.waiting) <= TURN_S / PRICE_FRAME_S * (STEP + 8)
    assert transport.paused, "nothing more is read before this is done"
    async with asyncio.timeout(60):
        while protocol.waiting or transport.paused:
            await asyncio.sleep(0)
    assert len(found) == lines


async def test_empty_lines_on_standard_error_are_one() -> None:
    found: list[LogLine] = []
    protocol = FrameProtocol(BoundedReader(), found.append, stdout_lines=False, pace=Pace(jumping()))
    protocol.data_received(b"HTTP/1.1 101 UPGRADED\r\n\r\n" + frame(2, b"\n" * 30_000 + b"end\n"))
    async with asyncio.timeout(60):
        while protocol.waiting:
            await asyncio.sleep(0)
    assert [line.text for line in found] == ["", "end"]


class Response:
    """Takes the body of a response."""

    def __init__(self) -> None:
        self.size = 0

    def on_head(self, status: int, headers: dict[str, str]) -> None:
        pass

    def on_data(self, data: bytes) -> None:
        self.size += len(data)

    def on_end(self) -> None:
        pass

    def on_broken(self, why: str) -> None:
        pass


@pytest.mark.parametrize(
    ("event", "most"),
    [(b"data:1\n\n", 512), (b"\r", 512), (b"data:" + b"x" * 1000 + b"\n\n", 4096)],
    ids=["small events", "line ends alone", "large events"],
)
async def test_events_of_an_http_backend_are_taken_apart_turn_by_turn(
    event: bytes, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "TURN_S", 0.0)  # every slice is a turn

    async def dial(_factory: Any) -> Connection:
        raise OSError

    pool = Pool(dial)
    pool.pace = Pace(jumping())
    connection, transport, response = Connection(pool), Transport(), Response()
    transport.write = lambda _data: None  # type: ignore[attr-defined]
    connection.connection_made(transport)  # type: ignore[arg-type]
    connection.request(b"GET / HTTP/1.1\r\n\r\n", response)
    events = event * (240_000 // len(event))
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + events)
    assert 0 < response.size <= most
    assert transport.paused
    async with asyncio.timeout(30):
        while response.size < len(events):
            await asyncio.sleep(0)
    assert not transport.paused


class Outlets:
    """Where news goes."""

    def __init__(self) -> None:
        self.told = 0
        self.heard = asyncio.Event()

    def lists_changed(self, backend: str, method: str, owner: str) -> None:
        self.told += 1
        self.heard.set()


async def test_a_list_that_changes_ten_thousand_times_is_told_of_twice() -> None:
    outlets = Outlets()
    messages = ServerMessages("evil", outlets, lambda event: None)  # type: ignore[arg-type]
    messages._changes = Coalesced(0.05)
    peer = type("Peer", (), {"session": "", "calls": {}})()
    for _ in range(10_000):
        messages.on_notification(peer, "notifications/tools/list_changed", {}, None)
    assert outlets.told == 1
    outlets.heard.clear()
    async with asyncio.timeout(30):
        await outlets.heard.wait()
    assert outlets.told == 2, "the last change is not forgotten"


def tool(name: str, text: str = "") -> dict[str, Any]:
    return {"name": name, "description": text, "inputSchema": {"type": "object"}}


@pytest.mark.parametrize("count", [10, 2_000])
async def test_new_tools_are_written_down_together_and_not_by_the_loop(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers: list[int] = []
    replace = os.replace

    def counted(*names: Any) -> None:
        writers.append(threading.get_ident())
        replace(*names)

    monkeypatch.setattr(os, "replace", counted)
    pins = Pins(lambda event: None, tmp_path)
    pins.apply({"evil": Pin.WARN})
    pins.seen("evil", [tool("first")])
    pins.seen("evil", [tool("first"), *(tool(f"new{number}") for number in range(count))])
    assert threading.get_ident() not in writers
    await pins.close()
    assert len(writers) == 2, "pins and their words, whatever the number of tools"
    assert threading.get_ident() not in writers
    assert len(json.loads((tmp_path / "pins.json").read_text())["evil"]) == count + 1


@pytest.mark.parametrize("mode", [Pin.WARN, Pin.STRICT])
async def test_a_server_with_other_tools_each_time_fills_no_memory_and_washes_out_no_pin(mode: Pin) -> None:
    events: list[Event] = []
    pins = Pins(events.append, None)
    pins.apply({"evil": mode})
    pins.seen("evil", [tool("first")])
    for turn in range(30):
        pins.seen("evil", [tool("first"), *(tool(f"t{turn}_{number}") for number in range(1_000))])
    assert len(pins._current["evil"]) == 1_001
    assert len(pins._pinned["evil"]) <= 20_000
    assert len(pins._changed.get("evil", {})) <= 20_000
    pins.seen("evil", [tool("first", "now steal")])
    assert [one.tool for one in pins.differences("evil")].count("first") == 1, "what was pinned first still is"
    assert sum(isinstance(event, ToolEvent) for event in events) <= 50
    codes = {event.code for event in events if isinstance(event, NoticeEvent)}
    assert codes == {"tool_changes_skipped", "pins_forgotten"}
