"""One HTTP request to a backend and its response, until it is the outcome of a call."""

from __future__ import annotations

import asyncio
import re
from typing import Any, Final, Protocol

from gateway.mcp.call.messages import MAX_MESSAGE, Call, Peer, Sink
from gateway.mcp.call.outcome import ErrorKind, answered
from gateway.mcp.wire import incoming
from gateway.mcp.wire.http_client import Connection
from gateway.mcp.wire.json_cost import BACKEND_VALUES, has_more_values
from gateway.sse import SseParser

_STRANGER: Final = re.compile(
    rb"(?i)(?:no valid|invalid|unknown|expired) session|session (?:id )?(?:not found|expired)"
)
"""What servers made after the SDKs' examples say, with 400 instead of 404, to a session that they do not know. This is
the one place that reads words: MCP has no other sign for it. It stays in the transport, looks only at the body of a 400
that does not answer the call by its id, and becomes `ErrorKind.SESSION_GONE` at once."""
_MAX_STRANGER: Final = 4096
"""Bytes of such a body that are looked at."""


class Owner(Peer, Protocol):
    """The part of an HTTP peer that its exchanges need."""

    sink: Sink
    last_session: str | None
    """The session id in the newest response that carried one."""

    @property
    def has_session(self) -> bool:
        """Whether the backend gave this connection a session."""
        ...

    def lost_session(self) -> None:
        """The backend does not know the session any more."""

    def take_push(self, message: dict[str, Any], call: Call | None) -> None:
        """A notification or request of the backend, on a call's stream or on none."""

    def unanswered(self, call: Call, exchange: Exchange) -> None:
        """The response ended without an outcome of the call."""

    def over(self, call: Call) -> None:
        """The call's exchange ended."""


class Exchange:
    """One request to the backend and its response: JSON, an event stream, or a bare status."""

    def __init__(self, peer: Owner, call: Call | None) -> None:
        self.peer = peer
        self.call = call
        self.connection: Connection | None = None
        self.status = 0
        self.resumed = False
        """It carries the rest of a call whose first stream ended: its own end is not the call's end."""
        self.is_get = False
        """It only asks for an event stream, so a refusal says nothing of the session: a server need not have any."""
        self.location: str | None = None
        """Where the backend says that its endpoint is."""
        self.redirected = False
        """It was sent there already."""
        self.event_id: str | None = None
        self.retry_ms: int | None = None
        self.done: asyncio.Future[None] | None = None
        self._sse: SseParser | None = None
        self._body: list[bytes] = []
        self._size = 0

    def on_head(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        if (session_id := headers.get("mcp-session-id")) is not None:
            self.peer.last_session = session_id
        if 300 <= status < 400:
            self.location = headers.get("location", "")
        elif headers.get("content-type", "").startswith("text/event-stream"):
            self._sse = SseParser(MAX_MESSAGE)

    def on_data(self, data: bytes) -> None:
        if self._sse is not None:
            self._take_events(self._sse, data)
            return
        self._size += len(data)
        if self._size > MAX_MESSAGE:
            self._fail(f"it answered with more than {MAX_MESSAGE} bytes")
            self.drop()
        else:
            self._body.append(data)

    def on_end(self) -> None:
        if self._lost_session():
            if self.call is not None:  # this request was refused; what else is in flight may have run
                self.call.fail("the session is gone", ErrorKind.SESSION_GONE)
            self.peer.lost_session()
        elif self._sse is None and self._body and self.call is not None and self._may_answer:
            self._take(self._body[0] if len(self._body) == 1 else b"".join(self._body))
        self._finish()

    @property
    def _may_answer(self) -> bool:
        """Whether the body may be a message, as the status says."""
        return self.status != 401 and self.location is None

    def _lost_session(self) -> bool:
        """Whether the status says that the backend does not know the session."""
        if self.is_get or not self.peer.has_session:
            return False
        return self.status == 404 or (self.status == 400 and self._is_stranger())

    def _is_stranger(self) -> bool:
        """Whether a 400 says that the backend does not know the session. Bytes of the transport are read for it, in here
        only; a response to the call itself is that call's outcome, whatever its words are."""
        body = b"".join(self._body)
        return _STRANGER.search(body[:_MAX_STRANGER]) is not None and not self._answers_call(body)

    def _answers_call(self, body: bytes) -> bool:
        if self.call is None or has_more_values(body, BACKEND_VALUES):
            return False
        try:
            message, _ = incoming.read(body)
        except ValueError:
            return False
        return isinstance(message, dict) and incoming.as_number(message.get("id")) == self.call.number

    def on_broken(self, why: str) -> None:
        if self._sse is None or self.event_id is None:
            self._fail(why)
        self._finish()

    def drop(self) -> None:
        """Close the connection: the rest of the response is not wanted."""
        if self.connection is not None:
            self.connection.drop()
        self._finish()

    def _finish(self) -> None:
        self.connection = None
        if self.done is not None and not self.done.done():
            self.done.set_result(None)
        call = self.call
        if call is None or self.resumed:
            return
        if call.outcome is None:
            self.peer.unanswered(call, self)
        self.peer.over(call)

    def _fail(self, why: str) -> None:
        if self.call is not None and not self.resumed:
            self.call.fail(why)

    def _take_events(self, parser: SseParser, data: bytes) -> None:
        try:
            events = parser.feed(data)
        except ValueError as error:
            self._fail(str(error))
            self.drop()
            return
        for event in events:
            self.event_id = event.id or self.event_id
            self.retry_ms = event.retry_ms if event.retry_ms is not None else self.retry_ms
            if event.data:
                self._take(event.data)

    def _take(self, text: bytes) -> None:
        if has_more_values(text, BACKEND_VALUES):
            self._fail(f"it answered with more than {BACKEND_VALUES} values")
            return
        try:
            message, text = incoming.read(text)
        except ValueError as error:
            self._take_unsound(text, error)
            return
        if not isinstance(message, dict):
            self._garbage("it answered with something that is not JSON-RPC")
            return
        if "method" in message:
            self.peer.take_push(message, self.call)
        elif self.call is not None:
            self._take_reply(self.call, message, text)

    def _take_unsound(self, text: bytes, error: ValueError) -> None:
        """A response that clients could not parse fails the call; the response to a request of our own is salvaged."""
        reply = incoming.salvaged(text)
        if self.call is not None and reply is not None and incoming.as_number(reply.get("id")) == self.call.number:
            self.call.take_unsound(reply, error)
        else:
            self._garbage(f"it answered with something that is not JSON-RPC ({error})")

    def _garbage(self, why: str) -> None:
        if self.status < 400:
            self.peer.sink.on_garbage(self.peer, "it sent something that is not JSON-RPC")
            self._fail(why)

    def _take_reply(self, call: Call, message: dict[str, Any], text: bytes) -> None:
        if call.outcome is None and self.connection is not None:
            self.connection.asked_for = True
        number = message.get("id")
        if number != call.number and number is not None:
            number = incoming.as_number(number)
        if isinstance(message.get("error"), dict) and number in (call.number, None):
            call.end(answered(message))
        elif number == call.number and isinstance(message.get("result"), dict):
            call.end(answered(message, text, call.number))
        elif self._sse is None:
            call.fail("it answered with a message that is no response to the request")
