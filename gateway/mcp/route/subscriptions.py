"""Which clients are notified of changes: `subscriptions/listen` streams, and the sessions of older clients.

A change that a session's own connection reports goes to that session alone. A change that a shared connection reports goes
to every client that sees the backend, except sessions with a connection of their own, which reports it to them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from gateway.mcp.call.caller import Caller
from gateway.mcp.call.messages import META_SUBSCRIPTION, Call, envelope
from gateway.mcp.call.outcome import Outcome, Result
from gateway.mcp.call.principal import Principal
from gateway.mcp.call.sessions import Session
from gateway.mcp.upstream.backend import Backend
from gateway.mcp.upstream.handshake import US, ask, send
from gateway.mcp.view.listing import LISTEN_FLAG, declares
from gateway.mcp.view.views import View
from gateway.mcp.wire import codec
from gateway.mcp.wire.errors import INTERNAL_ERROR, INVALID_PARAMS, PeerClosed, RpcError
from gateway.mcp.wire.tasks import Tasks

logger = logging.getLogger(__name__)

MAX_LISTENERS: Final = 2048
_MAX_URIS: Final = 1000
WATCHED_WITHIN_S: Final = 2.0
"""How long the acknowledgement of a client's stream waits for backends that have not acknowledged their part."""
_ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
_UPDATED: Final = "notifications/resources/updated"


class Listener:
    """One open `subscriptions/listen` stream."""

    __slots__ = ("caller", "closing", "early", "flags", "uris")

    def __init__(self, caller: Caller, flags: frozenset[str], uris: frozenset[str]) -> None:
        self.caller = caller
        self.flags = flags
        self.uris = uris
        self.closing = False
        self.early: list[tuple[str, dict[str, Any]]] | None = []
        """Changes from before the stream was acknowledged: the acknowledgement is its first message."""

    def acknowledge(self, honoured: dict[str, Any]) -> None:
        """Send which changes the stream reports, then those that happened meanwhile."""
        early, self.early = self.early or [], None
        self.notify(_ACKNOWLEDGED, {"notifications": honoured})
        for method, params in early:
            self.notify(method, params)

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification, tagged with the stream's id."""
        if self.early is not None:
            if len(self.early) < _MAX_URIS:
                self.early.append((method, params))
            return
        meta = params.get("_meta")
        meta = {**(meta if isinstance(meta, dict) else {}), META_SUBSCRIPTION: self.caller.request_id}
        if not self.caller.answer.push(
            codec.dumps({"jsonrpc": "2.0", "method": method, "params": {**params, "_meta": meta}})
        ):
            self.closing = True  # it does not read: end the stream, so that the client listens and reads again
            self.caller.answer.wakeup.wake()


class Watched:
    """One resource of one backend, and the streams and sessions that subscribed to it."""

    __slots__ = ("begun", "holders", "listen", "turn")

    def __init__(self) -> None:
        self.holders: set[object] = set()
        self.turn = asyncio.Lock()
        """Held while the backend is asked, so that a client that leaves at once leaves no subscription behind."""
        self.begun = False
        """Whether we are subscribed to it on the backend."""
        self.listen: Call | None = None
        """The call on whose stream a modern backend reports changes."""


class Subscriptions:
    """All listeners, and the subscriptions on the backends for them."""

    def __init__(
        self, tasks: Tasks, sessions: Callable[[], Iterable[Session]], view_of: Callable[[Session], View | None]
    ) -> None:
        self._tasks = tasks
        self._sessions = sessions
        self._view_of = view_of
        self._listeners: set[Listener] = set()
        self._watched: dict[tuple[str, str], Watched] = {}
        self.backends: dict[str, Backend] = {}
        self.closing = False

    # modern clients

    async def serve(self, caller: Caller, params: dict[str, Any]) -> Outcome:
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
            await self._watch_all(caller, listener)
            listener.acknowledge(honoured)
            await caller.answer.until(lambda: listener.closing or self.closing)
            return Result({"resultType": "complete", "_meta": {META_SUBSCRIPTION: caller.request_id}})
        finally:
            self._listeners.discard(listener)
            for uri in listener.uris:
                self._tasks.spawn(self._forget(uri, listener))

    async def _watch_all(self, caller: Caller, listener: Listener) -> None:
        """Wait until all resources are watched, so that no change after the acknowledgement is missed; with a limit."""
        clock, wakeup = asyncio.get_running_loop(), caller.answer.wakeup
        watching = [self._tasks.spawn(self._watch_quietly(caller, uri, listener)) for uri in listener.uris]
        for task in watching:
            task.add_done_callback(lambda _: wakeup.wake())
        until = clock.time() + WATCHED_WITHIN_S
        late = clock.call_at(until, wakeup.wake)
        try:
            await caller.answer.until(
                lambda: all(task.done() for task in watching) or clock.time() >= until or self.closing
            )
        finally:
            late.cancel()

    def look_again(self, view: Callable[[Principal, str], View | None]) -> None:
        """The views changed: streams go on with their new view, or end."""
        for listener in self._listeners:
            caller = listener.caller
            found = view(caller.principal, caller.view.route)
            if found is None:
                listener.closing = True
                caller.answer.wakeup.wake()
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
        if owner is None or listener not in self._listeners:
            return
        try:
            await self.watch(self.backends[owner], uri, listener)
        except RpcError as error:
            logger.info("server %s: %s cannot be watched: %s", owner, uri, error)

    async def _forget(self, uri: str, holder: object) -> None:
        for backend, watched in list(self._watched):
            if watched == uri and backend in self.backends:
                await self.unwatch(self.backends[backend], uri, holder)

    # on the backends

    async def watch(self, backend: Backend, uri: str, holder: object) -> None:
        """Subscribe to a resource over the backend's shared connection. Raises RpcError."""
        watched = self._watched.setdefault((backend.name, uri), Watched())
        watched.holders.add(holder)
        try:
            async with watched.turn:
                if not watched.begun:
                    watched.listen = await self._begin(backend, uri)
                    watched.begun = True
        except (RpcError, PeerClosed) as error:
            watched.holders.discard(holder)
            self._tidy(backend.name, uri)
            raise error if isinstance(error, RpcError) else RpcError(INTERNAL_ERROR, str(error)) from error

    async def _begin(self, backend: Backend, uri: str, *, wait: bool = True) -> Call | None:
        """Subscribe; returns a modern backend's call, on whose stream changes come. Raises RpcError, PeerClosed."""
        peer = await backend.peer(None)
        if not peer.modern:
            await ask(peer, backend.name, "resources/subscribe", {"uri": uri}, backend.call_timeout_s)
            return None
        params = {"notifications": {"resourceSubscriptions": [uri]}, "_meta": envelope({}, US)}
        call = Call(backend.name, "subscriptions/listen", params, None, None)
        await send(peer, call)
        try:
            async with asyncio.timeout(WATCHED_WITHIN_S if wait else 0):
                while not call.acknowledged and call.outcome is None:
                    await call.wakeup.wait()
        except TimeoutError:
            if wait:
                logger.info("server %s: has not acknowledged that it watches %s", backend.name, uri)
        if call.outcome is not None:
            await call.result()
        return call

    async def unwatch(self, backend: Backend, uri: str, holder: object) -> None:
        """The holder ends its subscription."""
        watched = self._watched.get((backend.name, uri))
        if watched is None or holder not in watched.holders:
            return
        watched.holders.discard(holder)
        async with watched.turn:
            if watched.begun and not watched.holders:
                watched.begun = False
                await self._end(backend, uri, watched.listen)
        self._tidy(backend.name, uri)

    async def _end(self, backend: Backend, uri: str, listen: Call | None) -> None:
        try:
            if listen is not None:
                if listen.peer is not None:
                    listen.peer.cancel(listen, "no client listens any more")
            elif (peers := [peer for peer in backend.peers() if not peer.modern and not peer.session]) and declares(
                peers[0].about.capabilities, "resources", "subscribe"
            ):
                params = {"uri": uri}
                await ask(peers[0], backend.name, "resources/unsubscribe", params, backend.call_timeout_s)
        except (RpcError, PeerClosed) as error:
            logger.info("server %s: %s is still watched: %s", backend.name, uri, error)

    def _tidy(self, backend: str, uri: str) -> None:
        watched = self._watched.get((backend, uri))
        if watched is not None and not watched.holders and not watched.begun and not watched.turn.locked():
            del self._watched[backend, uri]

    async def renew(self, backend: Backend) -> None:
        """The backend has a new shared connection: subscribe again to all watched resources."""
        for (name, uri), watched in list(self._watched.items()):
            if name != backend.name:
                continue
            try:
                async with watched.turn:
                    if watched.begun:
                        watched.listen = await self._begin(backend, uri, wait=False)
            except (RpcError, PeerClosed) as error:
                logger.info("server %s: %s cannot be watched: %s", name, uri, error)

    def drop_session(self, session: Session) -> None:
        """A session ended."""
        for uri in session.subscriptions:
            self._tasks.spawn(self._forget(uri, session))

    # notifications

    def lists_changed(self, backend: str, method: str, owner: str = "", *, ours: bool = False) -> None:
        """Notify clients of a changed list; `ours`: the gateway shows it differently, so no backend reports it."""
        flag = LISTEN_FLAG[method]
        if not owner:
            for listener in list(self._listeners):
                if flag in listener.flags and backend in listener.caller.view.backends:
                    listener.notify(method, {})
        message = codec.dumps({"jsonrpc": "2.0", "method": method})
        for session in self._audience(backend, owner, ours=ours):
            session.push(message)

    def resource_updated(self, backend: str, params: dict[str, Any], owner: str) -> None:
        """Notify clients of a changed resource."""
        uri = params.get("uri")
        if not isinstance(uri, str):
            return
        params = {key: value for key, value in params.items() if key != "_meta"}
        if not owner:
            for listener in list(self._listeners):
                if uri in listener.uris and listener.caller.view.owner_of(uri) == backend:
                    listener.notify(_UPDATED, params)
        message = codec.dumps({"jsonrpc": "2.0", "method": _UPDATED, "params": params})
        for session in self._audience(backend, owner):
            view = self._view_of(session) if uri in session.subscriptions else None
            if view is not None and view.owner_of(uri) == backend:
                session.push(message)

    def _audience(self, backend: str, owner: str, *, ours: bool = False) -> list[Session]:
        audience = []
        for session in self._sessions():
            if owner:
                wanted = session.id == owner
            else:
                own = self.backends[backend].used_peer(session.id) if backend in self.backends else None
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
            listener.caller.answer.wakeup.wake()
