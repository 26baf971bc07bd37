"""A backend on the other end of a pipe: one JSON-RPC message a line.

All calls of this peer share the pipe, and a line that is no response names no call: the sink decides whom it is for. Lines
that are no messages are counted and skipped; a line longer than `MAX_MESSAGE` is dropped as it comes and fails the call it
answers. All that is no response to a call is paid for from the backend's allowance (`gateway.pace`); when that is spent, the
pipe is not read for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from typing import Any, Final

from opentelemetry.trace import Tracer

from gateway.mcp.call.messages import MAX_MESSAGE, MAX_PUSHES, AbandonedCalls, About, Call, Sink
from gateway.mcp.call.outcome import answered
from gateway.mcp.wire import codec, incoming
from gateway.mcp.wire.errors import INTERNAL_ERROR, PeerClosed, RpcError
from gateway.mcp.wire.json_cost import BACKEND_VALUES, has_more_values
from gateway.mcp.wire.lines import Lines, Overlong, ends_of
from gateway.mcp.wire.tasks import Tasks
from gateway.pace import PRICE_BYTE_S, PRICE_GARBAGE_S, PRICE_NOTIFICATION_S, PRICE_REQUEST_S, Pace, price

_CHUNK: Final = 16 * 1024
"""Bytes read in one turn of the loop."""
_MAX_UNREAD: Final = 32 * 1024 * 1024
"""Bytes that may wait for a backend that does not read its input."""
_ID_FIRST: Final = re.compile(rb'\{"jsonrpc":\s?"2\.0",\s?"id":\s?(\d{1,18}),')
_ID_LAST: Final = re.compile(rb'"id":\s?(\d{1,18})\}\s*$')
_REQUEST: Final = re.compile(rb'\{(?:"jsonrpc":\s?"2\.0",\s?)?(?:"id":\s?[^,]{1,80},\s?)?"method":')
"""How a request or a notification of the backend's own begins: it answers no call, whatever its id is."""
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
    ) -> None:
        """`pace` is what all connections of this backend together may take of the loop."""
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
        lines = Lines(MAX_MESSAGE)
        while chunk := await self._reader.read(_CHUNK):
            for line in lines.feed(chunk):
                price_s = self._fail_overlong(line) if isinstance(line, Overlong) else self._take(line)
                if price_s and (rest_s := self._pace.spend(price_s)):
                    await asyncio.sleep(rest_s)
            garbage, wasted = lines.tally()
            if garbage:
                self._sink.on_garbage(self, _NO_MESSAGE, garbage)
            await asyncio.sleep(self._pace.spend(wasted * PRICE_BYTE_S) if wasted else 0)

    def _fail_overlong(self, line: Overlong) -> float:
        """A line that is too long: the call it answers fails."""
        return self._fail(line, f"it answered with a line of {line.size} bytes; the limit is {MAX_MESSAGE}")

    def _fail(self, line: Overlong, why: str) -> float:
        """The line is not parsed; the call it answers fails."""
        self._sink.on_garbage(self, why, 1)
        number = self._number_of(line.head, line.tail)
        call = self.calls.pop(number, None) if number is not None else None
        if call is not None:
            call.fail(why)
        return PRICE_GARBAGE_S

    def _number_of(self, head: bytes, tail: bytes) -> int | None:
        if _REQUEST.match(head):
            return None
        found = _ID_FIRST.match(head) or _ID_LAST.search(tail)
        if found is not None:
            return int(found[1])
        return next(iter(self.calls)) if len(self.calls) == 1 else None

    def _take(self, line: bytes) -> float:
        """Take one line; returns its price in seconds: 0 for the answer to a call."""
        began = time.perf_counter()
        if has_more_values(line, BACKEND_VALUES):
            return self._fail(ends_of(line), f"it answered with more than {BACKEND_VALUES} values")
        try:
            message, line = incoming.read(line)
        except ValueError as error:
            message = None
            self._take_unsound(line, error)
        if isinstance(message, dict) and "method" not in message:
            if self._take_reply(message, line):
                return 0.0
            floor_s = PRICE_GARBAGE_S
        elif isinstance(message, dict):
            floor_s = self._take_push(message)
        else:
            floor_s = PRICE_GARBAGE_S
            self._sink.on_garbage(self, _NO_MESSAGE, 1)
        return price(floor_s, time.perf_counter() - began)

    def _take_unsound(self, line: bytes, error: ValueError) -> None:
        """A response that clients could not parse fails the call; the response to a request of our own is salvaged."""
        reply = incoming.salvaged(line)
        first = _ID_FIRST.match(line) if reply is None and not _REQUEST.match(line) else None
        number = reply.get("id") if reply is not None else int(first[1]) if first is not None else None
        call = self.calls.pop(number, None) if type(number) is int else None
        if call is not None:
            call.take_unsound(reply, error)

    def _take_reply(self, message: dict[str, Any], line: bytes) -> bool:
        """Take a response; returns whether a call waited for it."""
        number = message.get("id")
        call = self.calls.pop(number, None) if type(number) is int else None
        if call is None:
            return type(number) is int and self.abandoned.answered(number)  # late: cancelled or timed out
        if not isinstance(message.get("result"), dict) and not isinstance(message.get("error"), dict):
            call.fail("it answered with a message that has neither a result nor an error")
        else:
            call.end(answered(message, line, call.number))
        return True

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
