"""Clients of the revisions up to 2025-11-25: sessions, their requests, and their GET stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.mcp.call.answer import Answer, ClientGone, Form, Headers, Receive, Send, reply_plain
from gateway.mcp.call.caller import Caller
from gateway.mcp.call.messages import Peer
from gateway.mcp.call.outcome import encode
from gateway.mcp.call.principal import Principal
from gateway.mcp.call.sessions import Session, Sessions
from gateway.mcp.downstream.batch import BATCHING, answers_of
from gateway.mcp.downstream.front import Look, answer, found, read_message
from gateway.mcp.downstream.http import Refused, accepts_stream, refusing
from gateway.mcp.downstream.shape import sound
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
        body, form = await read_message(headers, receive, self.max_body_bytes)
        if isinstance(body, list):
            await self._batch(body, principal, look, headers, Answer(receive, send, self._tasks, [], form), send)
            return
        message = sound(body)
        with refusing(message):
            view = look()
            if message.get("method") == "initialize" and "id" in message:
                await self._initialize(principal, view, message, Answer(receive, send, self._tasks, [], form))
                return
            session = self._find(principal, view, headers)
            if self._took(session, view, message):
                await reply_plain(send, _ACCEPTED)
            else:
                reply = Answer(receive, send, self._tasks, _naming(session), form)
                await self._request(session, view, message, headers, reply)

    def _took(self, session: Session, view: View, message: dict[str, Any]) -> bool:
        """Take a message that is not answered; False for a request."""
        if "method" not in message:
            session.take_answer(message)
        elif "id" not in message:
            self._notified(session, view, message)
        else:
            return False
        return True

    async def _initialize(self, principal: Principal, view: View, message: dict[str, Any], reply: Answer) -> None:
        params = message.get("params") or {}
        try:
            if not isinstance(params.get("protocolVersion"), str):
                raise RpcError(-32602, "protocolVersion must be a string")
            if len(codec.dumps(params)) > _MAX_GREETING:
                raise RpcError(-32602, f"the greeting is larger than {_MAX_GREETING} bytes")
            result = await self._lists.initialized(view, params["protocolVersion"])
        except RpcError as error:
            await reply.finish(codec.error_response(message["id"], error.body()))
            return
        session = self._sessions.open(principal, view.route, result["protocolVersion"], params)
        if session is None:
            raise Refused(503, "Too many open sessions", INTERNAL_ERROR)
        reply.headers += _naming(session)
        caller = _caller(session, view, message, {}, reply)
        for name in view.backends:
            if (backend := self._backends.get(name)) is not None:  # it may have left the file meanwhile
                self._tasks.spawn(self._prepare(backend, caller, session))
        await reply.finish(codec.response(message["id"], codec.dumps(result)))

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

    async def _request(
        self, session: Session, view: View, message: dict[str, Any], headers: dict[str, str], reply: Answer
    ) -> None:
        caller = _caller(session, view, message, headers, reply)
        with session.used():
            await answer(self._router, caller, message["method"], message.get("params") or {})

    async def _batch(
        self,
        body: list[Any],
        principal: Principal,
        look: Look,
        headers: dict[str, str],
        reply: Answer,
        send: Send,
    ) -> None:
        """Several messages in one body, which revision 2025-03-26 alone has. Raises Refused, ClientGone."""
        session = self._find(principal, look(), headers)
        if session.version != BATCHING:
            raise Refused(400, f"Body must be a single JSON-RPC message: batches are a part of {BATCHING} only")
        reply.headers += _naming(session)

        async def one(message: dict[str, Any]) -> bytes | None:
            view = look()
            if self._sessions.by_id(session.id) is not session:
                raise Refused(404, "Session not found")
            if self._took(session, view, message):
                return None
            if message["method"] == "initialize":
                raise Refused(400, "initialize cannot be part of a batch")
            caller = _caller(session, view, message, headers, reply)
            outcome = await found(self._router, caller, message["method"], message.get("params") or {})
            return encode(message["id"], outcome)

        with session.used():
            answers = await answers_of(body, one)
            if answers:
                await reply.finish_all(answers)
            else:
                await reply_plain(send, _ACCEPTED)

    async def _get(self, session: Session, headers: Mapping[str, str], receive: Receive, send: Send) -> None:
        """The session's stream. A newer one takes its place: a client that lost its connection unseen opens the next."""
        if not accepts_stream(headers):
            raise Refused(406, "Not Acceptable: Client must accept text/event-stream")
        stream = Answer(receive, send, self._tasks, _naming(session), Form.STREAM)
        before, session.stream = session.stream, stream
        if before is not None:
            stream.take_over(before)
            before.wakeup.wake()
        try:
            with session.used():
                await stream.open_stream()
                await send({"type": "http.response.body", "body": b": open\r\n\r\n", "more_body": True})
                await stream.until(lambda: self._closing() or session.stream is not stream)
                await stream.end_stream()
        except ClientGone:
            with contextlib.suppress(Exception):
                await stream.end_stream()
        finally:
            stream.stop_watching()
            if session.stream is stream:
                session.stream = None


def _naming(session: Session) -> Headers:
    return [(b"mcp-session-id", session.id.encode())]


def _caller(session: Session, view: View, message: dict[str, Any], headers: dict[str, str], reply: Answer) -> Caller:
    return Caller(
        principal=session.owner,
        view=view,
        modern=False,
        version=session.version,
        answer=reply,
        request_id=message["id"],
        session=session,
        capabilities=session.capabilities,
        client=session.client,
        level=session.level,
        headers=headers,
    )


async def _notify(peer: Peer, method: str) -> None:
    with contextlib.suppress(PeerClosed):
        await peer.notify(method, None)
