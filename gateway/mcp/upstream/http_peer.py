"""A backend behind streamable HTTP, in either generation of the protocol.

Each call has its own response stream, so all that comes on it belongs to that call alone. What belongs to no call (a legacy
session's GET stream) is passed on without one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from mcp.shared.inbound import NAME_BEARING_METHODS, encode_header_value, mcp_param_headers, x_mcp_header_map
from opentelemetry.trace import Tracer

from gateway.mcp.call.messages import MAX_PUSHES, AbandonedCalls, About, Call, Sink
from gateway.mcp.call.outcome import ErrorKind, Failure, Origin
from gateway.mcp.call.task_table import METHODS as TASK_METHODS
from gateway.mcp.upstream.exchange import Exchange
from gateway.mcp.upstream.site import Site, header_lines
from gateway.mcp.wire import codec
from gateway.mcp.wire.errors import INTERNAL_ERROR, PeerClosed, RpcError
from gateway.mcp.wire.tasks import Tasks
from gateway.pace import PRICE_NOTIFICATION_S, PRICE_REQUEST_S

_RECONNECT_S: Final = (1.0, 2.0, 4.0, 8.0, 15.0)
_MAX_RESUMES: Final = 20
_MODERN: Final = b"MCP-Protocol-Version: 2026-07-28\r\n"
_EVENT_ID: Final = re.compile(r"[\x20-\x7e]{1,1024}")
"""An event id that can be sent back in a header."""
_CUT_OFF: Final = "it closed the stream before it answered"
_SESSION_ID: Final = re.compile(r"[\x21-\x7e]{1,1024}")


def _refused(message: str, kind: ErrorKind) -> Failure:
    """The backend refused the request by a status alone."""
    return Failure({"code": INTERNAL_ERROR, "message": message}, kind, Origin.TRANSPORT)


class HttpPeer:
    """One legacy session of a backend at a site, or the stateless modern wire."""

    transport = "tcp"

    def __init__(
        self, site: Site, sink: Sink, tasks: Tasks, *, door: str, modern: bool, tracer: Tracer | None = None
    ) -> None:
        self.modern = modern
        self.about = About(modern, "", {}, {}, None, {})
        self.door = door
        self.session = ""
        self.closed = ""
        self.calls: dict[int, Call] = {}
        self.abandoned = AbandonedCalls()
        self.sink = sink
        self.schema: Callable[[str], Any] = lambda _: None
        """The input schema of a tool, for its `Mcp-Param-*` headers."""
        self._site = site
        self._path = site.path
        """Where the endpoint is: a redirect of one request holds for all later ones of this connection."""
        self._tasks = tasks
        self._tracer = tracer
        self._numbers: Iterator[int] = itertools.count(1)
        self._exchanges: dict[int, Exchange] = {}
        self._pushes: Counter[Call | None] = Counter()
        """The number of the backend's open requests, by the call in whose stream they came."""
        self._session_id: str | None = None
        self.last_session: str | None = None
        """The session id in the newest response that carried one."""
        self._fixed = b""
        self._listening: asyncio.Task[None] | None = None

    @property
    def has_session(self) -> bool:
        """Whether the backend gave this connection a session."""
        return self._session_id is not None

    async def send(self, call: Call) -> None:
        """Send the call. Raises PeerClosed; ConnectFailed when nothing was sent."""
        if self.closed:
            raise PeerClosed(self.closed)
        number = next(self._numbers)
        if self._tracer is not None:
            call.trace(self._tracer, self.transport)
        await self._post_call(call, number, Exchange(self, call))

    async def _post_call(self, call: Call, number: int, exchange: Exchange) -> None:
        body = call.message(number)
        extra = _MODERN + self._routing(call) if self.modern else self._fixed
        extra += await self._site.authorization()
        pool = self._site.pool
        connection = await (pool.stand() if call.method == "subscriptions/listen" else pool.take())
        if call.outcome is not None:  # it was cancelled meanwhile
            pool.give_back(connection)
            return
        exchange.connection = connection
        call.peer = self
        self.calls[number] = call
        self._exchanges[number] = exchange
        call.start_clock()
        connection.request(self._site.post(self._path, extra, body), exchange)

    def _routing(self, call: Call) -> bytes:
        """The headers that mirror the body on the 2026-07-28 wire."""
        headers = {"Mcp-Method": call.method}
        key = "taskId" if call.method in TASK_METHODS else NAME_BEARING_METHODS.get(call.method)
        name = call.params.get(key) if key is not None else None
        if isinstance(name, str):
            headers["Mcp-Name"] = encode_header_value(name)
        if call.method == "tools/call" and isinstance(name, str):
            arguments = call.params.get("arguments")
            if isinstance(arguments, dict) and (schema := self.schema(name)) is not None:
                headers.update(mcp_param_headers(x_mcp_header_map(schema), arguments))
        return header_lines(headers)

    async def notify(self, method: str, params: dict[str, Any] | None) -> None:
        """POST a notification and forget it. Raises PeerClosed."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = params
        await self._post(codec.dumps(message))

    async def _post(self, body: bytes) -> Exchange:
        if self.closed:
            raise PeerClosed(self.closed)
        extra = self._fixed
        extra += await self._site.authorization()
        connection = await self._site.pool.take()
        exchange = Exchange(self, None)
        exchange.connection = connection
        exchange.done = asyncio.get_running_loop().create_future()
        connection.request(self._site.post(self._path, extra, body), exchange)
        return exchange

    def cancel(self, call: Call, reason: str) -> None:
        """Close the call's stream, and notify a legacy backend: to it a lost stream means nothing."""
        exchange = self._exchanges.pop(call.number, None)
        self.calls.pop(call.number, None)
        if exchange is None:
            return
        self.abandoned.add(call.number)
        exchange.call = None
        exchange.drop()
        if not self.modern and not self.closed:
            params = {"requestId": call.number, "reason": reason}
            self._tasks.spawn(self._quietly(self.notify("notifications/cancelled", params)))

    async def _quietly(self, work: Awaitable[Any]) -> None:
        with contextlib.suppress(PeerClosed, RpcError):
            await work

    def over(self, call: Call) -> None:
        """The call's exchange ended."""
        if call.outcome is not None:
            self.calls.pop(call.number, None)
            self._exchanges.pop(call.number, None)

    def unanswered(self, call: Call, exchange: Exchange) -> None:
        """The stream ended without an outcome: resume it if the backend gave an event id, else the call failed."""
        if exchange.event_id is not None and self._session_id is not None and not self.closed:
            self._tasks.spawn(self._resume_or_fail(call, exchange.event_id, exchange.retry_ms or 1000))
        elif exchange.location is not None:
            self._redirected(call, exchange, exchange.location)
        elif exchange.status == 401 and self._site.authorize is not None:
            self._site.refused = True
            call.end(_refused(f"Server {call.backend}: it refused our credentials", ErrorKind.UNAUTHORIZED))
        elif exchange.status >= 400:
            call.end(_refused(f"Server {call.backend} answered HTTP {exchange.status}", ErrorKind.HTTP_STATUS))
        else:
            call.fail(_CUT_OFF)

    def _redirected(self, call: Call, exchange: Exchange, location: str) -> None:
        """Send the call once more to where its endpoint is, if that is the same origin and keeps the method."""
        path = self._site.path_at(location)
        if path is not None and exchange.status in (307, 308) and not exchange.redirected and not self.closed:
            self._path = path
            self._tasks.spawn(self._follow(call))
            return
        self._path = self._site.path
        text = f"Server {call.backend} answered HTTP {exchange.status}: {self._site.advice(location)}"
        call.end(_refused(text, ErrorKind.HTTP_STATUS))

    async def _follow(self, call: Call) -> None:
        exchange = Exchange(self, call)
        exchange.redirected = True
        try:
            await self._post_call(call, call.number, exchange)
        except PeerClosed as error:
            call.fail(str(error))
            self.over(call)

    async def _resume_or_fail(self, call: Call, event_id: str, retry_ms: int) -> None:
        """Resume the stream; the call ends whatever goes wrong."""
        try:
            await self._resume(call, event_id, retry_ms)
        except Exception as error:
            call.fail(f"{_CUT_OFF}, and its stream cannot be resumed: {type(error).__name__}")
            self.over(call)
            raise

    async def _resume(self, call: Call, event_id: str, retry_ms: int) -> None:
        """GET the rest of a call's stream (MCP 2025-11-25, SSE polling)."""
        why = _CUT_OFF
        for _ in range(_MAX_RESUMES):
            if not _EVENT_ID.fullmatch(event_id):
                why = f"{_CUT_OFF}, and its event id {event_id[:40]!a} cannot be sent back in a header"
                break
            await asyncio.sleep(min(retry_ms, 30_000) / 1000)
            if call.outcome is not None or call.number not in self.calls:
                return
            exchange = Exchange(self, call)
            exchange.resumed = True
            exchange.event_id = event_id
            try:
                await self._get(exchange, event_id)
            except PeerClosed as error:
                call.fail(str(error))
                return
            event_id = exchange.event_id or event_id
            retry_ms = exchange.retry_ms or retry_ms
            if exchange.status >= 400:
                break
            if call.settled:
                self.over(call)
                return
        call.fail(why)
        self.over(call)

    async def _get(self, exchange: Exchange, event_id: str | None) -> None:
        """Open an event stream and wait for its end. Raises PeerClosed."""
        extra = self._fixed
        if event_id is not None:
            extra += header_lines({"Last-Event-ID": event_id})
        extra += await self._site.authorization()
        exchange.is_get = True
        exchange.done = asyncio.get_running_loop().create_future()
        connection = await (self._site.pool.stand() if exchange.call is None else self._site.pool.take())
        exchange.connection = connection
        connection.request(self._site.other(b"GET", self._path, extra), exchange)
        try:
            await exchange.done
        finally:
            if exchange.connection is not None:
                exchange.connection.drop()

    def adopt(self, version: str) -> None:
        """Use the session that initialize opened for all later requests."""
        headers = {"MCP-Protocol-Version": version}
        if self.last_session is not None and _SESSION_ID.fullmatch(self.last_session):
            self._session_id = self.last_session
            headers["Mcp-Session-Id"] = self.last_session
        self._fixed = header_lines(headers)

    def listen(self) -> None:
        """Keep the session's GET stream open from now on, for messages that belong to no call."""
        if self._listening is None and not self.modern and not self.closed:
            self._listening = self._tasks.spawn(self._keep_listening())

    async def _keep_listening(self) -> None:
        event_id: str | None = None
        for attempt in itertools.count():
            exchange = Exchange(self, None)
            try:
                await self._get(exchange, event_id)
            except PeerClosed:
                if self.closed:
                    return
            if exchange.status in (400, 404, 405, 406, 409, 501) or self.closed:
                return
            if exchange.event_id is not None and _EVENT_ID.fullmatch(exchange.event_id):
                event_id = exchange.event_id
            pause = exchange.retry_ms / 1000 if exchange.retry_ms else _RECONNECT_S[min(attempt, 4)]
            await asyncio.sleep(min(pause, 30))

    def take_push(self, message: dict[str, Any], call: Call | None) -> None:
        """A notification or request of the backend, on a call's stream or on none."""
        method, params = message["method"], message.get("params")
        if not isinstance(method, str):
            self.sink.on_garbage(self, "it sent a message whose method is not text")
            return
        params = params if isinstance(params, dict) else {}
        self._site.pool.pace.spend(
            PRICE_REQUEST_S if "id" in message else PRICE_NOTIFICATION_S
        )  # the next turn rests
        if "id" not in message:
            self.sink.on_notification(self, method, params, call)
        elif self._pushes[call] >= MAX_PUSHES:
            self.sink.on_garbage(self, f"it asked more than {MAX_PUSHES} things at once; the rest goes unanswered")
        else:
            self._pushes[call] += 1
            self._tasks.spawn(self._serve(message["id"], method, params, call))

    async def _serve(self, push_id: Any, method: str, params: dict[str, Any], call: Call | None) -> None:
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": push_id}
        try:
            answer["result"] = await self.sink.on_request(self, method, params, call)
        except RpcError as error:
            answer["error"] = error.body()
        finally:
            self._pushes[call] -= 1
            if not self._pushes[call]:
                del self._pushes[call]
        await self._quietly(self._post(codec.dumps(answer)))

    def drop(self, why: str) -> None:
        """The other end is gone."""
        self._session_id = None
        self._end(why)

    def lost_session(self) -> None:
        """The backend does not know the session any more."""
        self._session_id = None
        self._end("its session ended")

    async def close(self) -> None:
        """End the session; calls in flight fail."""
        session_id, self._session_id = self._session_id, None
        if session_id is not None and not self.closed and not self._site.pool.closed:
            await self._quietly(self._delete())
        self._end("the connection was closed")

    async def _delete(self) -> None:
        connection = await self._site.pool.take()
        connection.request(self._site.other(b"DELETE", self._path, self._fixed), Exchange(self, None))

    def _end(self, why: str) -> None:
        if self.closed:
            return
        self.closed = why
        if self._listening is not None:
            self._listening.cancel()
        exchanges, self._exchanges = self._exchanges, {}
        calls, self.calls = self.calls, {}
        self.sink.on_closed(self, why)
        for call in calls.values():
            call.fail(f"{why} before it answered")
        for exchange in exchanges.values():
            exchange.call = None
            exchange.drop()
