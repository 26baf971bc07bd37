"""Bytes in, streams out: the attach connection's frames at every split point, and its bounds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.runtime.docker.attach import (
    HIGH_WATER,
    MAX_LOG_LINE,
    BoundedReader,
    Endpoint,
    FrameProtocol,
    LineSplitter,
    attach,
    printable,
)
from gateway.runtime.sandbox.errors import EngineError, EngineUnreachable
from gateway.runtime.sandbox.log_ring import LogLine

pytestmark = pytest.mark.anyio

UPGRADED = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"


def frame(stream: int, payload: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


async def test_frames_arrive_whole_however_they_are_split() -> None:
    wire = UPGRADED + frame(1, b'{"id":1}\n') + frame(2, b"warning\n") + frame(1, b'{"id"') + frame(1, b":2}\n")
    for size in range(1, len(wire) + 1):
        lines: list[LogLine] = []
        reader = BoundedReader()
        protocol = FrameProtocol(reader, lines.append, stdout_lines=False)
        for start in range(0, len(wire), size):
            protocol.data_received(wire[start : start + size])
        reader.feed_eof()
        await protocol.upgraded
        assert await reader.read() == b'{"id":1}\n{"id":2}\n'
        assert [(line.stream, line.text) for line in lines] == [("stderr", "warning")]


async def test_an_http_backends_output_becomes_log_lines() -> None:
    lines: list[LogLine] = []
    protocol = FrameProtocol(BoundedReader(), lines.append, stdout_lines=True)
    protocol.data_received(UPGRADED + frame(1, b"listening\nrea") + frame(1, b"dy\n"))
    await protocol.upgraded
    assert [(line.stream, line.text) for line in lines] == [("stdout", "listening"), ("stdout", "ready")]


async def test_a_refusal_is_an_error_with_the_status() -> None:
    protocol = FrameProtocol(BoundedReader(), lambda line: None, stdout_lines=False)
    protocol.data_received(b"HTTP/1.1 404 Not Found\r\n\r\n")
    with pytest.raises(EngineError, match="404 Not Found"):
        await protocol.upgraded


def test_a_log_line_without_end_is_cut_and_the_next_one_is_whole() -> None:
    lines: list[LogLine] = []
    splitter = LineSplitter("stderr", lines.append)
    for _ in range(100):
        splitter.feed(b"x" * 1000)
    splitter.feed(b"\nnext\n")
    assert [len(line.text) for line in lines] == [MAX_LOG_LINE, 4]


def test_escape_sequences_of_a_backend_do_not_reach_a_terminal() -> None:
    assert "\x1b" not in printable("\x1b[31mred\x1b]0;title\x07")


class Wire:
    """A fake engine that upgrades and then writes what it is told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer: asyncio.StreamWriter | None = None
        self.reader: asyncio.StreamReader | None = None
        self.attached = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(UPGRADED)
        self.reader, self.writer = reader, writer
        self.attached.set()


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    found = Wire(tmp_path / "s")
    server = await asyncio.start_unix_server(found.serve, found.path)
    yield found
    if found.writer is not None:
        found.writer.close()
        with contextlib.suppress(OSError):
            await found.writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_bytes_go_both_ways_and_the_end_of_output_is_the_end(wire: Wire) -> None:
    streams = await attach(Endpoint(unix=wire.path), "/x", lambda line: None, stdout_lines=False)
    await wire.attached.wait()
    assert wire.reader is not None
    assert wire.writer is not None
    streams.writer.write(b"ping\n")
    assert await wire.reader.readline() == b"ping\n"
    wire.writer.write(frame(1, b"pong\n"))
    wire.writer.write_eof()
    assert await streams.reader.readline() == b"pong\n"
    assert await streams.reader.readline() == b""
    await streams.close()


async def test_who_gives_up_waiting_for_the_end_takes_it_from_nobody(wire: Wire) -> None:
    streams = await attach(Endpoint(unix=wire.path), "/x", lambda line: None, stdout_lines=False)
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(streams.ended())
        given_up = tasks.create_task(streams.ended())
        await wire.attached.wait()
        given_up.cancel()
        await asyncio.wait([given_up])
        await streams.close()
        await waiting


async def test_one_line_of_eight_megabytes_arrives_whole(wire: Wire) -> None:
    streams = await attach(Endpoint(unix=wire.path), "/x", lambda line: None, stdout_lines=False)
    await wire.attached.wait()
    assert wire.writer is not None
    line = b"y" * (8 * 1024 * 1024) + b"\n"
    wire.writer.write(frame(1, line))
    async with asyncio.timeout(60):
        assert await streams.reader.readline() == line
    await streams.close()


async def test_unread_output_stops_being_read_so_memory_stays_bounded(wire: Wire) -> None:
    streams = await attach(Endpoint(unix=wire.path), "/x", lambda line: None, stdout_lines=False)
    await wire.attached.wait()
    assert wire.writer is not None
    assert isinstance(streams.reader, BoundedReader)
    short = frame(1, b"z" * 999 + b"\n")
    wire.writer.write(short * 20_000)  # 20 MB that nobody reads
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await wire.writer.drain()
    assert len(streams.reader._buffer) < HIGH_WATER + 512 * 1024  # type: ignore[attr-defined]
    total = 0
    async with asyncio.timeout(60):
        while total < 20_000_000:
            total += len(await streams.reader.read(1 << 20))
    assert total == 20_000_000
    await streams.close()


async def test_no_engine_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(EngineUnreachable, match="could not be reached"):
        await attach(Endpoint(unix=tmp_path / "none"), "/x", lambda line: None, stdout_lines=False)


async def test_who_reads_in_small_pieces_does_not_let_the_buffer_grow(wire: Wire) -> None:
    """Each look at the buffer used to let in another chunk, up to the longest line there may be: 64 MiB."""
    streams = await attach(Endpoint(unix=wire.path), "/x", lambda line: None, stdout_lines=False)
    await wire.attached.wait()
    assert wire.writer is not None
    wire.writer.write(frame(1, b"x" * 65_536) * 160)
    largest = taken = 0
    while taken < 160 * 65_536:
        taken += len(await streams.reader.read(4096))
        await asyncio.sleep(0)  # what the transport has comes in
        largest = max(largest, len(streams.reader._buffer))  # type: ignore[attr-defined]
    assert largest <= 2 * HIGH_WATER
    await streams.close()
