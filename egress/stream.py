"""One TCP connection, read by a coroutine while something is still to be decided about it.

Smaller and quicker than asyncio's streams: it hands out everything that arrived at once, stops reading when
nobody takes it, and can give its transport to another protocol (`egress.tunnel`) when nothing is left to parse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

READ_AHEAD = 64 * 1024
"""Stop reading when this much waits to be taken; one read of the loop may go above it."""
WRITE_AHEAD = 256 * 1024


class Stream(asyncio.Protocol):
    """A connection. One coroutine reads it at a time; another may write."""

    __slots__ = (
        "_drained",
        "_paused_reading",
        "_paused_writing",
        "_waiter",
        "buffer",
        "eof",
        "expired",
        "lost",
        "on_end",
        "on_lost",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.buffer = bytearray()
        """What arrived and was not taken yet."""
        self.eof = False
        """The peer sends no more."""
        self.lost = False
        """Nothing can be written any more."""
        self.expired = False
        """Its owner waited long enough: reads end and writes are not waited for."""
        self.on_lost: Callable[[], None] | None = None
        """Called when the connection breaks or is closed, if set."""
        self.on_end: Callable[[], None] | None = None
        """Called when the peer ends having sent nothing that was not taken, if set."""
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._paused_reading = False
        self._paused_writing = False

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # always a stream transport here
        self.transport.set_write_buffer_limits(WRITE_AHEAD)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if len(self.buffer) > READ_AHEAD and not self._paused_reading:
            self._paused_reading = True
            self.transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self.eof = True
        self._wake()
        if self.on_end is not None and not self.buffer:
            self.on_end()
        return True  # half-closed: our side stays open until we close it

    def connection_lost(self, exc: Exception | None) -> None:
        self.eof = self.lost = True
        self._wake()
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self.on_lost is not None:
            self.on_lost()

    def pause_writing(self) -> None:
        self._paused_writing = True

    def resume_writing(self) -> None:
        self._paused_writing = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def expire(self) -> None:
        """End all waiting on this connection."""
        self.expired = self.eof = True
        self._wake()
        self.resume_writing()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- called by the coroutine that owns it

    async def more(self) -> bool:
        """Wait until more arrived than is in the buffer now; False when nothing will come any more."""
        if self.eof:
            return False
        if self._paused_reading:
            self._paused_reading = False
            self.transport.resume_reading()
        had = len(self.buffer)
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        return len(self.buffer) > had

    async def receive(self) -> bytes:
        """Everything that arrived, as soon as there is something; empty at the end."""
        if not self.buffer:
            await self.more()
        return self.take()

    def take(self) -> bytes:
        """Everything that is in the buffer now."""
        data = bytes(self.buffer)
        self.buffer.clear()
        return data

    def skip(self, count: int) -> None:
        """Drop the first `count` bytes of the buffer."""
        del self.buffer[:count]

    def write(self, data: bytes) -> None:
        if not self.lost:
            self.transport.write(data)

    async def drain(self) -> bool:
        """Wait until the peer took enough of what was written; False when it is gone."""
        if self._paused_writing and not self.lost and not self.expired:
            self._drained = asyncio.get_running_loop().create_future()
            try:
                await self._drained
            finally:
                self._drained = None
        return not self.lost and not self.expired

    def write_eof(self) -> None:
        if not self.lost and self.transport.can_write_eof():
            self.transport.write_eof()

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Give the transport to another protocol, which gets what happens from now on; reading goes on."""
        self.transport.set_protocol(protocol)
        if self._paused_reading:
            self._paused_reading = False
            self.transport.resume_reading()

    def close(self) -> None:
        """Close after what was written has gone out."""
        if not self.lost:
            self.transport.close()

    def abort(self) -> None:
        """Close now."""
        if not self.lost:
            self.transport.abort()
