"""The response to one client request: JSON when the result is the first message, else an event stream.

Any task may put a message for the client into the outbox; only the request's own task writes. Comments keep a silent
stream open, and a client that closes its connection is noticed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from enum import Enum
from typing import Any, Final, TypeAlias

from gateway.mcp.wire import codec
from gateway.mcp.wire.tasks import Tasks
from gateway.mcp.wire.wakeup import Wakeup

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

PING_S: Final = 15.0
_WATCH_AFTER_S: Final = 0.1
"""Calls that are answered sooner never start a task to watch their client."""
_OUTBOX_CAP: Final = 2000
_OUTBOX_BYTES: Final = 8 * 1024 * 1024
_PING: Final = b": ping\r\n\r\n"
_JSON: Final = (b"content-type", b"application/json")
_SSE: Final[Headers] = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class ClientGone(Exception):
    """Raised when the client closed the connection before its answer was complete."""


def event(message: bytes) -> bytes:
    """A message as a server-sent event, whose data is one line to every reader."""
    return b"event: message\r\ndata: %b\r\n\r\n" % codec.one_line(message)


class Form(Enum):
    """What a client can read."""

    JSON = "json"
    """The result alone: what else would be said on the way is dropped."""
    EITHER = "either"
    """JSON, or an event stream where there is more to say than the result."""
    STREAM = "stream"


class Answer:
    """One response in the making."""

    __slots__ = (
        "_bytes",
        "_outbox",
        "_receive",
        "_send",
        "_tasks",
        "_watch",
        "dropped",
        "form",
        "gone",
        "headers",
        "started",
        "wakeup",
    )

    def __init__(
        self, receive: Receive, send: Send, tasks: Tasks, headers: Headers, form: Form = Form.EITHER
    ) -> None:
        self.form = form
        self._receive = receive
        self._send = send
        self._tasks = tasks
        self.headers = headers
        self._outbox: deque[bytes] = deque()
        self._bytes = 0
        self._watch: asyncio.TimerHandle | asyncio.Task[None] | None = None
        self.wakeup = Wakeup()
        self.started = False
        self.gone = False
        self.dropped = 0

    def push(self, message: bytes) -> bool:
        """Put a message on the stream; False when it is full, the client is gone, or it reads no streams."""
        if (
            self.form is Form.JSON
            or self.gone
            or len(self._outbox) >= _OUTBOX_CAP
            or self._bytes + len(message) > _OUTBOX_BYTES
        ):
            self.dropped += 1
            return False
        self._outbox.append(event(message))
        self._bytes += len(message)
        self.wakeup.wake()
        return True

    async def until(self, settled: Callable[[], bool]) -> None:
        """Write messages until `settled()` is true. Raises ClientGone."""
        while True:
            if self._outbox:
                await self._flush()
            if settled():
                return
            if self.gone:
                raise ClientGone
            if self._watch is None:
                self._watch = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, self._start_watching)
            await self.wakeup.wait()

    async def open_stream(self) -> None:
        """Begin the event stream."""
        if not self.started:
            self.started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": [*_SSE, *self.headers]})

    async def _flush(self) -> None:
        await self.open_stream()
        while self._outbox:
            body = b"".join(self._outbox)
            self._outbox.clear()
            self._bytes = 0
            await self._send({"type": "http.response.body", "body": body, "more_body": True})

    def take_over(self, other: Answer) -> None:
        """Take the messages that wait on another stream, which ends."""
        self._outbox, other._outbox = other._outbox, deque()
        self._bytes, other._bytes = other._bytes, 0

    async def finish(self, message: bytes, status: int = 200) -> None:
        """Send the last message and end the response."""
        self.stop_watching()
        if self._outbox:
            await self._flush()
        if self.form is Form.STREAM and status == 200:
            await self.open_stream()
        if self.started:
            await self._send({"type": "http.response.body", "body": event(message), "more_body": False})
            return
        length = (b"content-length", b"%d" % len(message))
        await self._send({"type": "http.response.start", "status": status, "headers": [_JSON, length, *self.headers]})
        await self._send({"type": "http.response.body", "body": message, "more_body": False})

    async def finish_all(self, messages: list[bytes]) -> None:
        """Send the answers of a batch and end the response: an array, or each as an event where there is a stream."""
        if self._outbox:
            await self._flush()
        if self.form is Form.STREAM:
            await self.open_stream()
        if self.started:
            for message in messages[:-1]:
                await self._send({"type": "http.response.body", "body": event(message), "more_body": True})
            await self.finish(messages[-1])
        else:
            await self.finish(b"[%b]" % b",".join(messages))

    async def end_stream(self) -> None:
        """End an event stream that has no last message."""
        self.stop_watching()
        if self._outbox:
            await self._flush()
        await self.open_stream()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _start_watching(self) -> None:
        self._watch = self._tasks.spawn(self._watching())

    async def _watching(self) -> None:
        while not self.gone:
            try:
                async with asyncio.timeout(PING_S):
                    message = await self._receive()
            except TimeoutError:
                if self.form is not Form.JSON:
                    self._outbox.append(_PING)
                    self.wakeup.wake()
                continue
            if message.get("type") == "http.disconnect":
                self.gone = True
                self.wakeup.wake()

    def stop_watching(self) -> None:
        """The request is over: stop watching its client."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None


async def reply_plain(send: Send, status: int, body: bytes = b"", headers: Headers | None = None) -> None:
    """A whole response at once; JSON when there is a body."""
    lines = [*([_JSON] if body else []), (b"content-length", b"%d" % len(body)), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body, "more_body": False})
