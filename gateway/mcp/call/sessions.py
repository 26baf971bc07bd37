"""The sessions of clients that speak a revision before 2026-07-28. This is the only table of them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol

from gateway.mcp.call.answer import Answer
from gateway.mcp.call.principal import Principal
from gateway.mcp.wire import codec
from gateway.mcp.wire.errors import INTERNAL_ERROR, RpcError

IDLE_S: Final = 1800.0
MAX_SESSIONS: Final = 10_000
MAX_PER_PRINCIPAL: Final = 2_000
_MAX_ASKED: Final = 64
_MAX_ENDED: Final = 4_096
"""Ended sessions whose cause is remembered."""


class Cancellable(Protocol):
    """A call in flight, as far as its session is concerned."""

    def cancel(self, reason: str) -> None:
        """The client cancelled the call."""


class Session:
    """One client's session on one route."""

    __slots__ = (
        "_next",
        "asked",
        "busy",
        "calls",
        "capabilities",
        "client",
        "id",
        "initialized",
        "last_used",
        "level",
        "owner",
        "route",
        "started",
        "stream",
        "subscriptions",
        "version",
    )

    def __init__(self, owner: Principal, route: str, version: str, params: Mapping[str, Any]) -> None:
        capabilities, client = params.get("capabilities"), params.get("clientInfo")
        self.id = secrets.token_hex(16)
        self.owner = owner
        self.route = route
        self.version = version
        self.capabilities: Mapping[str, Any] = capabilities if isinstance(capabilities, dict) else {}
        self.client: Mapping[str, Any] = client if isinstance(client, dict) else {}
        self.level = "debug"
        self.initialized = False
        self.started = self.last_used = time.monotonic()
        self.busy = 0
        """Requests being served, an open GET stream included."""
        self.calls: dict[Any, Cancellable] = {}
        """The backend calls in flight, by the client's request id."""
        self.asked: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.stream: Answer | None = None
        """The open GET stream."""
        self.subscriptions: set[str] = set()
        self._next = 0

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """One more request is being served: the session does not expire meanwhile."""
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1
            self.last_used = time.monotonic()

    def ask(self, method: str, params: Mapping[str, Any], stream: Answer) -> asyncio.Future[dict[str, Any]]:
        """Send the client a request on `stream`; the future brings its result. Raises RpcError when it cannot."""
        if len(self.asked) >= _MAX_ASKED:
            raise RpcError(INTERNAL_ERROR, "the client has too many unanswered requests")
        self._next += 1
        key = f"stockade-{self._next}"
        message = {"jsonrpc": "2.0", "id": key, "method": method, "params": params}
        if not stream.push(codec.dumps(message)):
            raise RpcError(INTERNAL_ERROR, "the client does not read its stream")
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.asked[key] = future

        def settled(_: asyncio.Future[dict[str, Any]]) -> None:
            self.asked.pop(key, None)
            stream.wakeup.wake()

        future.add_done_callback(settled)
        return future

    def take_answer(self, message: Mapping[str, Any]) -> None:
        """Take the client's response to a question; any other message is ignored."""
        future = self.asked.get(message["id"]) if isinstance(message.get("id"), str) else None
        if future is None or future.done():
            return
        error = message.get("error")
        if isinstance(error, dict):
            code = error.get("code")
            text = str(error.get("message", "the client refused"))
            future.set_exception(RpcError(code if type(code) is int else INTERNAL_ERROR, text, error.get("data")))
        else:
            result = message.get("result")
            future.set_result(result if isinstance(result, dict) else {})

    def push(self, message: bytes) -> bool:
        """Send a message on the GET stream; False when there is none."""
        return self.stream is not None and self.stream.push(message)

    def end(self) -> None:
        """End all open questions and the stream."""
        for future in list(self.asked.values()):
            if not future.done():
                future.set_exception(RpcError(INTERNAL_ERROR, "the client's session ended"))
                future.exception()
        if self.stream is not None:
            self.stream.gone = True
            self.stream.wakeup.wake()


class Sessions:
    """The sessions by id, each bound to the principal and the route that opened it; idle ones expire."""

    def __init__(self, on_end: Callable[[Session], None]) -> None:
        self._table: dict[str, Session] = {}
        self._owned: Counter[Principal] = Counter()
        self._on_end = on_end
        self._ended: dict[str, tuple[Principal, str]] = {}

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._table.values()))

    def open(self, owner: Principal, route: str, version: str, params: Mapping[str, Any]) -> Session | None:
        """Open a session; None when the table is full even after idle sessions expired."""
        if self._full(owner):
            self.expire(60.0)
        if self._full(owner):
            return None
        session = Session(owner, route, version, params)
        self._table[session.id] = session
        self._owned[owner] += 1
        return session

    def _full(self, owner: Principal) -> bool:
        return len(self._table) >= MAX_SESSIONS or self._owned[owner] >= MAX_PER_PRINCIPAL

    def find(self, session_id: str, owner: Principal, route: str) -> Session | None:
        """The session, if this principal opened it on this route; otherwise None, as for one that does not exist."""
        session = self._table.get(session_id)
        if session is None or session.owner != owner or session.route != route:
            return None
        session.last_used = time.monotonic()
        return session

    def by_id(self, session_id: str) -> Session | None:
        """The session of that id."""
        return self._table.get(session_id)

    def why_ended(self, session_id: str, owner: Principal) -> str:
        """Why the gateway ended a session; empty if it did not, or if the session is not this principal's."""
        whose, why = self._ended.get(session_id, (None, ""))
        return why if whose == owner else ""

    def close(self, session: Session, why: str = "") -> None:
        """End a session; a client that still uses it is given `why`."""
        if self._table.pop(session.id, None) is not None:
            if why:
                if len(self._ended) >= _MAX_ENDED:
                    del self._ended[next(iter(self._ended))]
                self._ended[session.id] = (session.owner, why)
            self._owned[session.owner] -= 1
            if not self._owned[session.owner]:
                del self._owned[session.owner]
            session.end()
            self._on_end(session)

    def expire(self, idle_s: float = IDLE_S) -> None:
        """End the sessions that were idle for `idle_s`."""
        horizon = time.monotonic() - idle_s
        for session in [s for s in self._table.values() if not s.busy and s.last_used < horizon]:
            self.close(session, f"it was not used for {idle_s:g} s")
