"""Who is told of changes: `subscriptions/listen` streams, and the sessions of older clients.

A change that a session's own connection reports goes to that session alone. One that a shared connection reports
goes to everybody who sees the backend, but for those who have a connection of their own to hear it from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from gateway.mcp import wire
from gateway.mcp.backend import Backend
from gateway.mcp.caller import Caller, Principal
from gateway.mcp.calls import Done
from gateway.mcp.catalogue import LISTEN_FLAG, declares
from gateway.mcp.connect import US, ask
from gateway.mcp.errors import INTERNAL_ERROR, INVALID_PARAMS, PeerClosed, RpcError
from gateway.mcp.peer import META_SUBSCRIPTION, Call, envelope
from gateway.mcp.sessions import Session
from gateway.mcp.tasks import Tasks
from gateway.mcp.views import View

logger = logging.getLogger(__name__)

MAX_LISTENERS: Final = 2048
_MAX_URIS: Final = 1000
_UPDATED: Final = "notifications/resources/updated"


class Listener:
    """One open `subscriptions/listen` stream."""

    __slots__ = ("caller", "closing", "flags", "uris")

    def __init__(self, caller: Caller, flags: frozenset[str], uris: frozenset[str]) -> None:
        self.caller = caller
        self.flags = flags
        self.uris = uris
        self.closing = False

    def tell(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification, tagged with the stream's id."""
        meta = params.get("_meta")
        meta = {**(meta if isinstance(meta, dict) else {}), META_SUBSCRIPTION: self.caller.request_id}
        if not self.caller.answer.push(
            wire.dumps({"jsonrpc": "2.0", "method": method, "params": {**params, "_meta": meta}})
        ):
            self.closing = True  # it does not read: end the stream, so that it listens again and reads anew
            self.caller.answer.bell.ring()


class Watches:
    """All listeners, and what is watched on the backends for them."""

    def __init__(
        self, tasks: Tasks, sessions: Callable[[], Iterable[Session]], view_of: Callable[[Session], View | None]
    ) -> None:
        self._tasks = tasks
        self._sessions = sessions
        self._view_of = view_of
        self._listeners: set[Listener] = set()
        self._watched: dict[tuple[str, str], set[object]] = {}
        self._listens: dict[tuple[str, str], Call] = {}
        self.backends: dict[str, Backend] = {}
        self.closing = False

    # modern clients

    async def serve(self, caller: Caller, params: dict[str, Any]) -> Done:
        """Carry a `subscriptions/listen` stream until its client leaves or the gateway stops. Raises ClientGone."""
        wanted = params.get("notifications")
        if not isinstance(wanted, dict):
            raise RpcError(INVALID_PARAMS, "notifications must be an object")
        if len(self._listeners) >= MAX_LISTENERS:
            raise RpcError(INTERNAL_ERROR, "Subscription limit reached")
        listener = self._listener(caller, wanted)
        self._listeners.add(listener)
        try:
            honoured: dict[str, Any] = dict.fromkeys(sorted(listener.flags), True)
            if listener.uris:
                honoured["resourceSubscriptions"] = [
                    uri for uri in wanted["resourceSubscriptions"] if uri in listener.uris
                ]
            listener.tell("notifications/subscriptions/acknowledged", {"notifications": honoured})
            for uri in listener.uris:
                self._tasks.spawn(self._watch_quietly(caller, uri, listener))
            await caller.answer.until(lambda: listener.closing or self.closing)
            result = {"resultType": "complete", "_meta": {META_SUBSCRIPTION: caller.request_id}}
            return wire.response(caller.request_id, wire.dumps(result)), 200
        finally:
            self._listeners.discard(listener)
            for uri in listener.uris:
                self._tasks.spawn(self._forget(uri, listener))

    def look_again(self, view: Callable[[Principal, str], View | None]) -> None:
        """What clients may see changed: streams go on under their new view, or end."""
        for listener in self._listeners:
            caller = listener.caller
            found = view(caller.principal, caller.view.route)
            if found is None:
                listener.closing = True
                caller.answer.bell.ring()
            else:
                caller.view = found

    def _listener(self, caller: Caller, wanted: dict[str, Any]) -> Listener:
        flags = frozenset(flag for flag in LISTEN_FLAG.values() if wanted.get(flag) is True)
        uris = wanted.get("resourceSubscriptions")
        uris = [uri for uri in uris if isinstance(uri, str)] if isinstance(uris, list) else []
        if len(uris) > _MAX_URIS:
            raise RpcError(INVALID_PARAMS, f"At most {_MAX_URIS} resources can be watched on one stream")
        return Listener(caller, flags, frozenset(uri for uri in uris if caller.view.owner_of(uri) is not None))

    async def _watch_quietly(self, caller: Caller, uri: str, listener: Listener) -> None:
        owner = caller.view.owner_of(uri)
        if owner is None:
            return
        try:
            await self.watch(self.backends[owner], uri, listener)
        except RpcError as error:
            logger.info("backend %s: %s cannot be watched: %s", owner, uri, error)

    async def _forget(self, uri: str, holder: object) -> None:
        for backend, watched in list(self._watched):
            if watched == uri and backend in self.backends:
                await self.unwatch(self.backends[backend], uri, holder)

    # on the backends

    async def watch(self, backend: Backend, uri: str, holder: object) -> None:
        """Have the backend's shared connection tell of changes of a resource. Raises RpcError."""
        holders = self._watched.setdefault((backend.name, uri), set())
        first = not holders
        holders.add(holder)
        if first:
            try:
                await self._begin(backend, uri)
            except (RpcError, PeerClosed) as error:
                self._watched.pop((backend.name, uri), None)
                raise error if isinstance(error, RpcError) else RpcError(INTERNAL_ERROR, str(error)) from error

    async def _begin(self, backend: Backend, uri: str) -> None:
        peer = await backend.peer(None)
        if not peer.modern:
            await ask(peer, backend.name, "resources/subscribe", {"uri": uri}, backend.call_timeout_s)
            return
        params = {"notifications": {"resourceSubscriptions": [uri]}, "_meta": envelope({}, US)}
        call = Call(backend.name, "subscriptions/listen", params, None, None)
        await peer.send(call)
        self._listens[backend.name, uri] = call

    async def unwatch(self, backend: Backend, uri: str, holder: object) -> None:
        """The holder does not care any more."""
        holders = self._watched.get((backend.name, uri))
        if holders is None:
            return
        holders.discard(holder)
        if holders:
            return
        del self._watched[backend.name, uri]
        call = self._listens.pop((backend.name, uri), None)
        try:
            if call is not None and call.peer is not None:
                call.peer.cancel(call, "nobody listens any more")
            elif (peers := [peer for peer in backend.peers() if not peer.modern and not peer.session]) and declares(
                peers[0].about.capabilities, "resources", "subscribe"
            ):
                params = {"uri": uri}
                await ask(peers[0], backend.name, "resources/unsubscribe", params, backend.call_timeout_s)
        except (RpcError, PeerClosed) as error:
            logger.info("backend %s: %s is still watched: %s", backend.name, uri, error)

    async def renew(self, backend: Backend) -> None:
        """The backend's shared connection is a new one: watch again what was watched."""
        for name, uri in list(self._watched):
            if name == backend.name:
                try:
                    await self._begin(backend, uri)
                except (RpcError, PeerClosed) as error:
                    logger.info("backend %s: %s cannot be watched: %s", name, uri, error)

    def drop_session(self, session: Session) -> None:
        """A session ended."""
        for uri in session.subscriptions:
            self._tasks.spawn(self._forget(uri, session))

    # news

    def lists_changed(self, backend: str, method: str, owner: str = "", *, ours: bool = False) -> None:
        """Tell of a changed list; `ours`: it is we who show it differently, which no backend tells anybody."""
        flag = LISTEN_FLAG[method]
        if not owner:
            for listener in list(self._listeners):
                if flag in listener.flags and backend in listener.caller.view.backends:
                    listener.tell(method, {})
        message = wire.dumps({"jsonrpc": "2.0", "method": method})
        for session in self._audience(backend, owner, ours=ours):
            session.tell(message)

    def resource_updated(self, backend: str, params: dict[str, Any], owner: str) -> None:
        """Tell of a changed resource."""
        uri = params.get("uri")
        if not isinstance(uri, str):
            return
        params = {key: value for key, value in params.items() if key != "_meta"}
        if not owner:
            for listener in list(self._listeners):
                if uri in listener.uris and listener.caller.view.owner_of(uri) == backend:
                    listener.tell(_UPDATED, params)
        message = wire.dumps({"jsonrpc": "2.0", "method": _UPDATED, "params": params})
        for session in self._audience(backend, owner):
            view = self._view_of(session) if uri in session.subscriptions else None
            if view is not None and view.owner_of(uri) == backend:
                session.tell(message)

    def _audience(self, backend: str, owner: str, *, ours: bool = False) -> list[Session]:
        audience = []
        for session in self._sessions():
            if owner:
                wanted = session.id == owner
            else:
                own = self.backends[backend].own_peer(session.id) if backend in self.backends else None
                wanted = ours or own is None
            if wanted and session.stream is not None:
                view = self._view_of(session)
                if view is not None and backend in view.backends:
                    audience.append(session)
        return audience

    def close(self) -> None:
        """End all streams."""
        self.closing = True
        for listener in self._listeners:
            listener.caller.answer.bell.ring()
