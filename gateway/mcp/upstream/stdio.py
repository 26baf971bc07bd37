"""A backend on the other end of a pipe: one JSON-RPC message a line.

All calls of this peer share the pipe, and a line that is no response names no call: the sink decides whom it is for. Lines
that are no messages are counted, and go to the server's log; where one is an answer that cannot be read, its call ends with
the reason (`wire/unreadable.py`). A line longer than `MAX_MESSAGE` is dropped as it comes and fails the call it answers. All
that is no response to a call is paid for from the backend's allowance (`gateway.pace`); when that is spent, the pipe is not
read for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Final

from opentelemetry.trace import Tracer

from gateway.mcp.call.messages import MAX_MESSAGE, MAX_PUSHES, AbandonedCalls, About, Call, Sink
from gateway.mcp.call.outcome import answered
from gateway.mcp.wire import codec, incoming, unreadable
from gateway.mcp.wire.errors import INTERNAL_ERROR, PeerClosed, RpcError
from gateway.mcp.wire.json_cost import BACKEND_VALUES, has_more_values
from gateway.mcp.wire.lines import MAX_STRAY, Lines, Overlong, ends_of
from gateway.mcp.wire.tasks import Tasks
from gateway.pace import PRICE_BYTE_S, PRICE_GARBAGE_S, PRICE_NOTIFICATION_S, PRICE_REQUEST_S, Pace, price

_CHUNK: Final = 16 * 1024
"""Bytes read in one turn of the loop."""
_MAX_UNREAD: Final = 32 * 1024 * 1024
"""Bytes that may wait for a backend that does not read its input."""
_MAX_LOGGED: Final = 64
"""Lines that are no messages that are logged of one chunk: the last ones."""
_NO_MESSAGE: Final = "it wrote a line that is not JSON-RPC to its standard output"


class StdioPeer:
    """A connection over (reader, writer)."""

    transport = "pipe"

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        sink: Sink,
        tasks: Tasks,
        *,
        door: str,
        pace: Pace | None = None,
        tracer: Tracer | None = None,
        on_stray: Callable[[str], object] = lambda _: None,
    ) -> None:
        """`pace` is what all connections of this backend together may take of the loop; `on_stray` takes each line that
        is no message."""
        self.modern = False
        self.about = About(False, "", {}, {}, None, {})
        self.door = door
        self.session = ""
        self.closed = ""
        self.calls: dict[int, Call] = {}
        self.abandoned = AbandonedCalls()
        self._reader = reader
        self._writer = writer
        self._sink = sink
        self._tasks = tasks
        self._pace = pace or Pace()
        self._tracer = tracer
        self._next = 0
        self._pushes = 0
        self._on_stray = on_stray
        self._lines = Lines(MAX_MESSAGE)
        self._reading = tasks.spawn(self._run())

    async def send(self, call: Call) -> None:
        """Write the call. Raises PeerClosed."""
        self._next += 1
        number = self._next
        if self._tracer is not None:
            call.trace(self._tracer, self.transport)
        self._write(call.message(number))
        call.peer = self
        self.calls[number] = call
        call.start_clock()

    async def notify(self, method: str, params: dict[str, Any] | None) -> None:
        """Write a notification. Raises PeerClosed."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = params
        self._write(codec.dumps(message))

    def cancel(self, call: Call, reason: str) -> None:
        """Send notifications/cancelled for a call in flight, and forget it."""
        if self.calls.pop(call.number, None) is not None and not self.closed and call.method != "initialize":
            self.abandoned.add(call.number)
            params = {"requestId": call.number, "reason": reason}
            with contextlib.suppress(PeerClosed):
                self._write(codec.dumps({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}))

    def drop(self, why: str) -> None:
        """The other end is gone or useless: stop reading, so that the next peer on this pipe is its only reader."""
        self._ended(why)
        self._reading.cancel()

    async def close(self) -> None:
        """Close the pipe."""
        self._ended("the connection was closed")
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    def _write(self, message: bytes) -> None:
        if self.closed:
            raise PeerClosed(self.closed)
        transport = self._writer.transport
        try:
            if transport.get_write_buffer_size() > _MAX_UNREAD:
                raise PeerClosed("it does not read its input")
            self._writer.write(message + b"\n")
        except (RuntimeError, OSError) as error:  # uvloop raises this for a broken pipe before it reports the loss
            raise PeerClosed(f"its input is closed: {error}") from error

    async def _run(self) -> None:
        try:
            await self._read_lines()
        except (OSError, EOFError) as error:
            self._ended(f"the connection broke: {error}")
        else:
            self._ended("it ended its output")
        finally:
            self._ended("the connection was closed")

    async def _read_lines(self) -> None:
        lines = self._lines
        while chunk := await self._reader.read(_CHUNK):
            for line in lines.feed(chunk):
                price_s = self._fail_overlong(line) if isinstance(line, Overlong) else self._take(line)
                if price_s and (rest_s := self._pace.spend(price_s)):
                    await asyncio.sleep(rest_s)
            garbage, wasted = lines.tally()
            if garbage:
                self._sink.on_garbage(self, _NO_MESSAGE, garbage)
            if stray := lines.take_stray():
                await asyncio.sleep(self._pace.spend(self._take_stray(stray)))
            await asyncio.sleep(self._pace.spend(wasted * PRICE_BYTE_S) if wasted else 0)

        self._take_stray(lines.rest())

    def _take_stray(self, pieces: list[bytes]) -> float:
        """Log text that was no message, and fail the calls that it was to answer; returns its price in seconds."""
        lines = b"\n".join(pieces).rsplit(b"\n", _MAX_LOGGED)
        if len(lines) > _MAX_LOGGED and lines.pop(0).strip():
            self._on_stray("(lines of its standard output are left out here)")
        lines = [line for line in lines if line and not line.isspace()]
        for line in lines:
            self._on_stray(line[:MAX_STRAY].decode("utf-8", "replace").strip("\r"))
            if unreadable.is_array(line):
                self._fail_unread(line, "it answered with an array of messages, which MCP does not have")
            elif line.startswith(b"{"):
                self._fail_unread(line, "it answered with something that is not JSON")
        return len(lines) * PRICE_GARBAGE_S

    def _fail_unread(self, line: bytes, why: str) -> None:
        """The line is an answer that cannot be read; the call that it answers ends."""
        number = unreadable.call_number(line, self.calls)
        if number is not None:
            self.calls.pop(number).fail(why)

    def _fail_overlong(self, line: Overlong) -> float:
        """A line that is too long: the call it answers fails."""
        return self._fail(line, f"it answered with a line of {line.size} bytes; the limit is {MAX_MESSAGE}")

    def _fail(self, line: Overlong, why: str) -> float:
        """The line is not parsed; the call it answers fails."""
        self._sink.on_garbage(self, why, 1)
        self._lines.keep(b"%b ... (%d bytes)" % (line.head, line.size))
        number = unreadable.number_of(line.head, line.tail, self.calls)
        if number is not None:
            self.calls.pop(number).fail(why)
        return PRICE_GARBAGE_S

    def _take(self, line: bytes) -> float:
        """Take one line; returns its price in seconds: 0 for the answer to a call."""
        began = time.perf_counter()
        if has_more_values(line, BACKEND_VALUES):
            return self._fail(ends_of(line), f"it answered with more than {BACKEND_VALUES} values")
        try:
            message, line = incoming.read(line)
        except ValueError as error:
            message = None
            if unreadable.is_beginning(line):
                self._lines.continue_after(line)
                return PRICE_GARBAGE_S
            self._take_unsound(line, error)
        if isinstance(message, dict) and "method" not in message:
            if self._take_reply(message, line):
                return 0.0
            self._lines.keep(line)
            floor_s = PRICE_GARBAGE_S
        elif isinstance(message, dict) and b"\n" not in line.rstrip():  # over several lines: printed for people
            floor_s = self._take_push(message)
        else:
            floor_s = PRICE_GARBAGE_S
            self._lines.keep(line)
            self._sink.on_garbage(self, _NO_MESSAGE, 1)
        return price(floor_s, time.perf_counter() - began)

    def _take_unsound(self, line: bytes, error: ValueError) -> None:
        """A response that clients could not parse fails the call; the response to a request of our own is salvaged."""
        reply = incoming.salvaged(line)
        number = incoming.as_number(reply.get("id")) if reply is not None else None
        if number is None:
            number = unreadable.call_number(line, self.calls)
        call = self.calls.pop(number, None) if number is not None else None
        if call is not None:
            call.take_unsound(reply, error)

    def _take_reply(self, message: dict[str, Any], line: bytes) -> bool:
        """Take a response; returns whether a call waited for it."""
        number = message.get("id")
        if type(number) is not int:
            number = self._number_meant(message, number)
        call = self.calls.pop(number, None) if number is not None else None
        if call is None:
            return number is not None and self.abandoned.answered(number)  # late: cancelled or timed out
        if not isinstance(message.get("result"), dict) and not isinstance(message.get("error"), dict):
            call.fail("it answered with a message that has neither a result nor an error")
        else:
            call.end(answered(message, line, call.number))
        return True

    def _number_meant(self, message: dict[str, Any], said: Any) -> int | None:
        """The call that a response is for whose id is no whole number: the text of one, or the null of an error that says
        that a request could not be read, while only one waits."""
        if said is None and isinstance(message.get("error"), dict):
            return next(iter(self.calls)) if len(self.calls) == 1 else None
        return incoming.as_number(said)

    def _take_push(self, message: dict[str, Any]) -> float:
        """Take a notification or request; returns its lowest price in seconds."""
        method, params = message["method"], message.get("params")
        if not isinstance(method, str):
            self._sink.on_garbage(self, "it sent a message whose method is not text", 1)
            return PRICE_GARBAGE_S
        params = params if isinstance(params, dict) else {}
        if "id" not in message:
            self._sink.on_notification(self, method, params, None)
            return PRICE_NOTIFICATION_S
        if self._pushes >= MAX_PUSHES:
            self._answer(message["id"], error=RpcError(INTERNAL_ERROR, "too many open requests"))
        else:
            self._pushes += 1
            self._tasks.spawn(self._serve(message["id"], method, params))
        return PRICE_REQUEST_S

    async def _serve(self, push_id: Any, method: str, params: dict[str, Any]) -> None:
        try:
            result = await self._sink.on_request(self, method, params, None)
        except RpcError as error:
            self._answer(push_id, error=error)
        except Exception:
            self._answer(push_id, error=RpcError(INTERNAL_ERROR, "the gateway could not serve the request"))
            raise
        else:
            self._answer(push_id, result=result)
        finally:
            self._pushes -= 1

    def _answer(self, push_id: Any, *, result: Any = None, error: RpcError | None = None) -> None:
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": push_id}
        message.update({"error": error.body()} if error is not None else {"result": result})
        with contextlib.suppress(PeerClosed):
            self._write(codec.dumps(message))

    def _ended(self, why: str) -> None:
        if self.closed:
            return
        self.closed = why
        calls, self.calls = self.calls, {}
        self._writer.close()
        self._sink.on_closed(self, why)
        for call in calls.values():
            call.fail(f"{why} before it answered")
