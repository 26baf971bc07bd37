"""Clients of the revisions up to 2025-11-25: sessions, their requests, and their GET stream."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.mcp.call.answer import Answer, ClientGone, Receive, Send, reply_plain
from gateway.mcp.call.caller import Caller
from gateway.mcp.call.messages import Peer
from gateway.mcp.call.principal import Principal
from gateway.mcp.call.sessions import Session, Sessions
from gateway.mcp.downstream.front import Look, answer, read_message
from gateway.mcp.downstream.http import Refused, accepts
from gateway.mcp.route.calls import Calls
from gateway.mcp.route.lists import Lists
from gateway.mcp.route.route import Router
from gateway.mcp.upstream.backend import Backend
from gateway.mcp.view.views import View
from gateway.mcp.wire import codec
from gateway.mcp.wire.errors import INTERNAL_ERROR, PeerClosed, RpcError
from gateway.mcp.wire.tasks import Tasks

_ACCEPTED: Final = 202
_MAX_GREETING: Final = 64 * 1024
"""Bytes of an `initialize`; each session keeps a part of it."""


class LegacyFront:
    """Serves legacy clients."""

    def __init__(
        self,
        *,
        router: Router,
        sessions: Sessions,
        lists: Lists,
        calls: Calls,
        backends: Mapping[str, Backend],
        tasks: Tasks,
        closing: Callable[[], bool],
    ) -> None:
        self._router = router
        self._sessions = sessions
        self._lists = lists
        self._calls = calls
        self._backends = backends
        self._tasks = tasks
        self._closing = closing
        self.max_body_bytes = 0

    async def serve(
        self, method: str, principal: Principal, look: Look, headers: dict[str, str], receive: Receive, send: Send
    ) -> None:
        """One HTTP request. Raises Refused, Denied, EOFError, ClientGone."""
        match method:
            case "POST":
                await self._post(principal, look, headers, receive, send)
            case "GET":
                await self._get(self._find(principal, look(), headers), headers, receive, send)
            case "DELETE":
                self._sessions.close(self._find(principal, look(), headers))
                await reply_plain(send, 200)
            case _:
                raise Refused(405, "Method Not Allowed", allow="GET, POST, DELETE")

    def _find(self, principal: Principal, view: View, headers: Mapping[str, str]) -> Session:
        session_id = headers.get("mcp-session-id")
        if session_id is None:
            raise Refused(400, "Bad Request: Missing session ID")
        session = self._sessions.find(session_id, principal, view.route)
        if session is None:
            why = self._sessions.why_ended(session_id, principal)
            raise Refused(404, f"Session ended: {why}. Initialize again" if why else "Session not found")
        return session

    async def _post(
        self, principal: Principal, look: Look, headers: dict[str, str], receive: Receive, send: Send
    ) -> None:
        message = await read_message(headers, receive, self.max_body_bytes)
        view = look()
        if message.get("method") == "initialize" and "id" in message:
            await self._initialize(principal, view, message, receive, send)
            return
        session = self._find(principal, view, headers)
        if "method" not in message:
            session.take_answer(message)
            await reply_plain(send, _ACCEPTED)
        elif "id" not in message:
            self._notified(session, view, message)
            await reply_plain(send, _ACCEPTED)
        else:
            await self._request(session, view, message, headers, receive, send)

    async def _initialize(
        self, principal: Principal, view: View, message: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        params = message.get("params") or {}
        try:
            if not isinstance(params.get("protocolVersion"), str):
                raise RpcError(-32602, "protocolVersion must be a string")
            if len(codec.dumps(params)) > _MAX_GREETING:
                raise RpcError(-32602, f"the greeting is larger than {_MAX_GREETING} bytes")
            result = await self._lists.initialized(view, params["protocolVersion"])
        except RpcError as error:
            await reply_plain(send, 200, codec.error_response(message["id"], error.body()))
            return
        session = self._sessions.open(principal, view.route, result["protocolVersion"], params)
        if session is None:
            raise Refused(503, "Too many open sessions", INTERNAL_ERROR)
        caller = self._caller(session, view, message["id"], {}, receive, send)
        for name in view.backends:
            self._tasks.spawn(self._prepare(self._backends[name], caller, session))
        body = codec.response(message["id"], codec.dumps(result))
        await reply_plain(send, 200, body, [(b"mcp-session-id", session.id.encode())])

    async def _prepare(self, backend: Backend, caller: Caller, session: Session) -> None:
        """Start what the session needs of its own while its client still reads its greeting."""
        await backend.prepare(caller)
        if self._sessions.by_id(session.id) is None:  # it ended meanwhile
            backend.release(session.id)

    def _notified(self, session: Session, view: View, message: dict[str, Any]) -> None:
        params = message.get("params") or {}
        match message["method"]:
            case "notifications/initialized":
                session.initialized = True
            case "notifications/cancelled":
                request_id = params.get("requestId")
                call = session.calls.get(request_id) if isinstance(request_id, int | str) else None
                if call is not None:
                    call.cancel(str(params.get("reason", "cancelled by the client")))
            case "notifications/roots/list_changed":
                for name in view.backends:
                    peer = self._backends[name].own_peer(session.id)
                    if peer is not None:
                        self._tasks.spawn(_notify(peer, message["method"]))
            case _:
                pass

    def _caller(
        self, session: Session, view: View, request_id: Any, headers: dict[str, str], receive: Receive, send: Send
    ) -> Caller:
        return Caller(
            principal=session.owner,
            view=view,
            modern=False,
            version=session.version,
            answer=Answer(receive, send, self._tasks, [(b"mcp-session-id", session.id.encode())]),
            request_id=request_id,
            session=session,
            capabilities=session.capabilities,
            client=session.client,
            level=session.level,
            headers=headers,
        )

    async def _request(
        self,
        session: Session,
        view: View,
        message: dict[str, Any],
        headers: dict[str, str],
        receive: Receive,
        send: Send,
    ) -> None:
        caller = self._caller(session, view, message["id"], headers, receive, send)
        session.busy += 1
        try:
            await answer(self._router, caller, message["method"], message.get("params") or {})
        finally:
            session.busy -= 1
            session.last_used = time.monotonic()

    async def _get(self, session: Session, headers: Mapping[str, str], receive: Receive, send: Send) -> None:
        if not accepts(headers)[1]:
            raise Refused(406, "Not Acceptable: Client must accept text/event-stream")
        if session.stream is not None:
            raise Refused(409, "Conflict: Only one SSE stream is allowed per session")
        stream = Answer(receive, send, self._tasks, [(b"mcp-session-id", session.id.encode())])
        session.stream = stream
        session.busy += 1
        try:
            await stream.open_stream()
            await send({"type": "http.response.body", "body": b": open\r\n\r\n", "more_body": True})
            await stream.until(self._closing)
            await stream.end_stream()
        except ClientGone:
            with contextlib.suppress(Exception):
                await stream.end_stream()
        finally:
            stream.stop_watching()
            session.busy -= 1
            session.stream = None
            session.last_used = time.monotonic()


async def _notify(peer: Peer, method: str) -> None:
    with contextlib.suppress(PeerClosed):
        await peer.notify(method, None)
