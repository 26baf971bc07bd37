"""A container's standard streams over the engine's hijacked connection.

Theory of operation. `POST /containers/ID/attach` with an `Upgrade` header turns the HTTP connection into a raw
stream: what we write is the container's standard input; what comes back is frames of an 8-byte header (stream
number, three zeros, length as big-endian 32 bits) and a payload ("Stream format" in the Engine API reference).
`FrameProtocol` takes the frames apart as bytes arrive, without copying payloads into frames first: standard
output goes straight into a `StreamReader`, standard error is cut into lines for the log.

Memory stays bounded on a chatty backend: once `HIGH_WATER` bytes wait unread, reading stops, the engine's pipe
fills and the backend blocks in `write`. A reader that waits for one longer line starts reading again (that is how
`StreamReader.readuntil` works), up to `MAX_LINE`.

So does the loop's time. A chunk may hold thousands of frames and lines, so it is taken apart in steps: when they
have cost what a turn may, the rest waits, nothing more is read, and the backend rests as `gateway.pace` says. No line is
lost by that.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, SupportsIndex, cast

from gateway.pace import TURN_S, Pace
from gateway.runtime.engine.base import LineSink
from gateway.runtime.sandbox.errors import EngineError, EngineUnreachable
from gateway.runtime.sandbox.log_ring import MAX_LOG_LINE, LogLine, printable

MAX_LINE: Final = 64 * 1024 * 1024
"""Bytes in one line of standard output; a longer one makes `readline` raise."""
HIGH_WATER: Final = 1024 * 1024
HEADER: Final = 8
MAX_HEAD: Final = 16 * 1024
_EMPTY_LINES: Final = re.compile(rb"\n{3,}")
STEP: Final = 512
"""Bytes of log lines taken in one step; each may be a line."""
PRICE_FRAME_S: Final = 10e-6
PRICE_LINE_S: Final = 10e-6
PRICE_LOGGED_BYTE_S: Final = 50e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the engine listens."""

    unix: Path | None = None
    host: str = ""
    port: int = 0
    tls: ssl.SSLContext | None = None


class BoundedReader(asyncio.StreamReader):
    """A stream reader that stops reading at `HIGH_WATER`, while still allowing lines of up to `MAX_LINE`."""

    def __init__(self) -> None:
        super().__init__(limit=MAX_LINE)
        self.transport: Tap | None = None

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        """Takes bytes in; pauses reading when too many are buffered and no read is waiting."""
        super().feed_data(data)
        if len(self._buffer) > HIGH_WATER and not self._paused and self.transport is not None:  # type: ignore[attr-defined,has-type]
            self.transport.pause_reading()
            self._paused = True

    def _maybe_resume_transport(self) -> None:
        """Resumes reading once half of the buffer was consumed.

        The base class resumes whenever it holds less than `MAX_LINE`; a caller that reads in small pieces would let the
        buffer grow to that.
        """
        if self._paused and len(self._buffer) <= HIGH_WATER // 2 and self.transport is not None:  # type: ignore[attr-defined]
            self._paused = False
            self.transport.resume_reading()


class LineSplitter:
    """Cuts a byte stream into log lines; a line longer than `MAX_LOG_LINE` is cut, and its rest dropped."""

    def __init__(self, stream: Literal["stdout", "stderr"], sink: LineSink) -> None:
        self.stream: Literal["stdout", "stderr"] = stream
        self.sink = sink
        self.partial = bytearray()
        self.blank = False
        """The last line was empty: more of them say nothing."""

    def feed(self, data: bytes | memoryview) -> int:
        """Takes bytes in, hands whole lines out; empty lines in a row are one. Returns how many lines there were."""
        *lines, rest = _EMPTY_LINES.sub(b"\n\n", bytes(data)).split(b"\n")
        for line in lines:
            if line or self.partial or not self.blank:
                self.emit(bytes(self.partial) + line[:MAX_LOG_LINE])
                self.blank = not line and not self.partial
                self.partial.clear()
        if len(self.partial) < MAX_LOG_LINE:
            self.partial += rest[:MAX_LOG_LINE]
        return len(lines)

    def end(self) -> None:
        """The stream ended: an unfinished line counts."""
        if self.partial:
            self.emit(bytes(self.partial))
            self.partial.clear()

    def emit(self, line: bytes) -> None:
        """Hands one line out, terminal control characters made harmless."""
        text = line[:MAX_LOG_LINE].decode(errors="replace").rstrip("\r")
        self.sink(LogLine(time=time.time(), stream=self.stream, text=printable(text)))


class Tap:
    """The reading of a transport: paused while at least one of those that may pause it wants it to be."""

    def __init__(self, transport: asyncio.ReadTransport) -> None:
        self.transport = transport
        self.full = False
        self.resting = False

    def pause_reading(self) -> None:
        """The reader is full."""
        self.full = True
        self.turn()

    def resume_reading(self) -> None:
        """The reader wants more."""
        self.full = False
        self.turn()

    def rest(self, resting: bool) -> None:
        """The backend has used up its share of the loop, or has earned some again."""
        self.resting = resting
        self.turn()

    def turn(self) -> None:
        """Pauses or resumes accordingly."""
        if self.transport.is_closing():
            return
        if self.full or self.resting:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()


class FrameProtocol(asyncio.StreamReaderProtocol):
    """The attach connection: first the HTTP answer, then frames."""

    def __init__(
        self, reader: BoundedReader, on_line: LineSink, *, stdout_lines: bool, pace: Pace | None = None
    ) -> None:
        super().__init__(reader)
        self.reader = reader
        self.pace = pace or Pace()
        self.upgraded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = asyncio.Event()
        self.head = bytearray()
        self.header = bytearray()
        self.remaining = 0
        self.stream = 0
        self.stdout = LineSplitter("stdout", on_line) if stdout_lines else None
        self.stderr = LineSplitter("stderr", on_line)
        self.tap: Tap | None = None
        self.waiting = b""
        """Received, to be processed in the next turn of the loop."""
        self.over: list[Exception | None] = []
        """How the connection ended, while received bytes are still to be processed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open; the request is written by `attach`."""
        super().connection_made(transport)
        self.tap = Tap(cast("asyncio.ReadTransport", transport))  # uvloop: no subclass of it
        self.reader.transport = self.tap
        self.reader._transport = self.tap  # type: ignore[attr-defined]  # it resumes by itself when it was read

    def data_received(self, data: bytes) -> None:
        """Bytes of the answer's head, then of frames."""
        if self.upgraded.done():
            self.take_turn(data)
            return
        self.head += data
        end = self.head.find(b"\r\n\r\n")
        if end >= 0:
            self.answer(bytes(self.head[:end]))
            self.take_turn(bytes(self.head[end + 4 :]))
            self.head.clear()
        elif len(self.head) > MAX_HEAD:
            self.refuse("the engine's answer to attach has no end")

    def take_turn(self, data: bytes) -> None:
        """Takes as much as one turn of the loop allows; the rest waits, and the backend with it."""
        if self.waiting:
            self.waiting += data  # read before the transport was paused
            return
        left, price_s = self.take(memoryview(data))
        self.waiting = bytes(left)
        rest_s = self.pace.spend(price_s)
        if rest_s or self.waiting:
            if self.tap is not None:
                self.tap.rest(True)
            asyncio.get_running_loop().call_later(rest_s, self.go_on)

    def go_on(self) -> None:
        """The next turn."""
        if self.tap is not None:
            self.tap.rest(False)
        waiting, self.waiting = self.waiting, b""
        if waiting:
            self.take_turn(waiting)
        if self.over and not self.waiting:
            self.finish(self.over.pop())

    def answer(self, head: bytes) -> None:
        """The head of the answer: 101, or 200 from engines that hijack without saying so."""
        status = head.split(b"\r\n", 1)[0].decode("latin-1")
        if " 101 " in f"{status} " or " 200 " in f"{status} ":
            self.upgraded.set_result(None)
        else:
            self.refuse(f"the engine refused to attach: {status}")

    def refuse(self, sentence: str) -> None:
        """The connection cannot be used."""
        if not self.upgraded.done():
            self.upgraded.set_exception(EngineError(sentence))

    def take(self, data: memoryview) -> tuple[memoryview, float]:
        """Takes frames apart, wherever the chunk borders fall, for one turn; returns what is left, and what it cost."""
        price_s = 0.0
        while data and price_s < TURN_S:
            if self.remaining == 0:
                data = self.take_header(data)
                price_s += PRICE_FRAME_S
                continue
            size = min(self.remaining, len(data) if self.is_protocol else STEP)
            payload, data = data[:size], data[size:]
            self.remaining -= len(payload)
            price_s += self.deliver(payload)
        return data, price_s

    @property
    def is_protocol(self) -> bool:
        """Whether this stream is for the reader, and not for the log."""
        return self.stream != 2 and self.stdout is None

    def take_header(self, data: memoryview) -> memoryview:
        """Completes a frame header; returns what follows."""
        missing = HEADER - len(self.header)
        self.header += data[:missing]
        if len(self.header) == HEADER:
            self.stream = self.header[0]
            self.remaining = int.from_bytes(self.header[4:], "big")
            self.header.clear()
        return data[missing:]

    def deliver(self, payload: memoryview) -> float:
        """One piece of one stream's output. Returns what it costs."""
        splitter = self.stderr if self.stream == 2 else self.stdout
        if splitter is None:
            self.reader.feed_data(bytes(payload))
            return 0.0
        return splitter.feed(payload) * PRICE_LINE_S + len(payload) * PRICE_LOGGED_BYTE_S

    def connection_lost(self, exc: Exception | None) -> None:
        """The container ended, or the engine did."""
        self.refuse("the engine closed the connection")
        if self.waiting:
            self.over.append(exc)
        else:
            self.finish(exc)

    def finish(self, exc: Exception | None) -> None:
        """Everything that was received has been processed."""
        if self.stdout is not None:
            self.stdout.end()
        self.stderr.end()
        super().connection_lost(exc)
        self.lost.set()

    def eof_received(self) -> bool:
        """The container's output ended: close, nothing is left to write to."""
        if not self.waiting:
            super().eof_received()
        return False


class HijackedStreams:
    """An open attachment (the `Attachment` protocol)."""

    def __init__(self, reader: BoundedReader, writer: asyncio.StreamWriter, lost: asyncio.Event) -> None:
        self.reader: asyncio.StreamReader = reader
        self.writer = writer
        self.lost = lost

    async def ended(self) -> None:
        """Waits until the container's output ended and was processed.

        Safe to cancel, unlike the writer's `wait_closed`: all its callers share one future, which a cancelled one cancels.
        """
        await self.lost.wait()

    async def close(self) -> None:
        """Closes the streams; the container keeps running."""
        self.writer.close()
        try:
            async with asyncio.timeout(1):
                await self.lost.wait()
        except TimeoutError:
            self.writer.transport.abort()


async def attach(
    endpoint: Endpoint,
    path: str,
    on_line: LineSink,
    *,
    stdout_lines: bool,
    pace: Pace | None = None,
    timeout_s: float = 30,
) -> HijackedStreams:
    """Opens `POST path` as a hijacked connection. Raises EngineError."""
    loop = asyncio.get_running_loop()
    reader = BoundedReader()
    try:
        async with asyncio.timeout(timeout_s):
            protocol = FrameProtocol(reader, on_line, stdout_lines=stdout_lines, pace=pace)
            transport = await connect(loop, endpoint, protocol)
            transport.write(
                f"POST {path} HTTP/1.1\r\nHost: engine\r\nContent-Length: 0\r\n"
                "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode()
            )
            await protocol.upgraded
    except TimeoutError:
        raise EngineUnreachable(
            f"The container engine did not answer within {timeout_s:g} s when attaching."
        ) from None
    except OSError as error:
        raise EngineUnreachable(f"The container engine could not be reached to attach: {error}.") from None
    return HijackedStreams(reader, asyncio.StreamWriter(transport, protocol, reader, loop), protocol.lost)


async def connect(loop: asyncio.AbstractEventLoop, endpoint: Endpoint, protocol: FrameProtocol) -> asyncio.Transport:
    """A connection to the engine."""
    if endpoint.unix is not None:
        transport, _ = await loop.create_unix_connection(lambda: protocol, str(endpoint.unix))
    else:
        transport, _ = await loop.create_connection(lambda: protocol, endpoint.host, endpoint.port, ssl=endpoint.tls)
    return transport
