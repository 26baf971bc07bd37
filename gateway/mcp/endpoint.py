"""The MCP endpoint: this is where the parts of the package are put together.

`downstream/entry.py` is its ASGI application, `route/` finds the backend of a request, `upstream/` speaks to backends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from opentelemetry.trace import Tracer

from gateway.mcp.call.inflight import InFlight
from gateway.mcp.call.principal import Principal
from gateway.mcp.call.sessions import IDLE_S, Session, Sessions
from gateway.mcp.downstream.auth import still_admitted
from gateway.mcp.downstream.entry import Entry
from gateway.mcp.downstream.legacy import LegacyFront
from gateway.mcp.downstream.modern import ModernFront
from gateway.mcp.route.calls import Calls, EventBarrier
from gateway.mcp.route.lists import Lists
from gateway.mcp.route.route import Router
from gateway.mcp.route.subscriptions import Subscriptions
from gateway.mcp.route.visibility import Visibility
from gateway.mcp.upstream.backend import Backend
from gateway.mcp.upstream.builds import BeingBuilt
from gateway.mcp.upstream.cache import ListCache
from gateway.mcp.upstream.remote import Secrets, placed_site
from gateway.mcp.upstream.server_messages import ServerMessages
from gateway.mcp.upstream.sharing import Instances
from gateway.mcp.view.listing import CHANGED, Kind, Listing
from gateway.mcp.view.notices import describe, left_out
from gateway.mcp.view.pinned_text import Difference
from gateway.mcp.view.pins import Pins
from gateway.mcp.view.search import Search
from gateway.mcp.view.views import Directory, View
from gateway.mcp.wire.errors import RpcError
from gateway.mcp.wire.tasks import Tasks
from observability.events import EgressEvent, Event
from observability.instruments import Meters
from registry.config import Config
from registry.model.fields import Start
from registry.model.server import Server

logger = logging.getLogger(__name__)

_HOUSEKEEPING_S: Final = 10.0


class Endpoint:
    """The endpoint. `app` is mounted at / of the MCP listener; `run` must be running while it serves."""

    def __init__(
        self,
        *,
        supervisor: Instances,
        barrier: EventBarrier,
        emit: Callable[[Event], object],
        meters: Meters,
        tracer: Tracer | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        """`cache_dir` keeps tool lists and pins from one run to the next."""
        self.inflight = InFlight()
        self.on_tools: Callable[[str, frozenset[str]], None] = lambda _backend, _tools: None
        """Called with the names of a backend's tools each time they were read (the vocabulary of metrics)."""
        self._instances = supervisor
        self._emit = emit
        self._meters = meters
        self._tracer = tracer
        self._tasks = Tasks()
        self._backends: dict[str, Backend] = {}
        self._pins = Pins(emit, cache_dir)
        self._list_cache = ListCache(cache_dir)
        self._visibility = Visibility(self._backends, self._pins, self._list_cache, emit)
        self._sessions = Sessions(self._session_ended)
        self._subscriptions = Subscriptions(self._tasks, lambda: self._sessions, self._view_of)
        self._calls = Calls(
            inflight=self.inflight, barrier=barrier, emit=emit, meters=meters, tracer=tracer, tasks=self._tasks
        )
        self._lists = Lists(self._backends, self._tasks, self.inflight.background)
        self._subscriptions.backends = self._backends
        self._router = Router(
            backends=self._backends,
            calls=self._calls,
            lists=self._lists,
            subscriptions=self._subscriptions,
            search=Search(),
            emit=emit,
            meters=meters,
        )
        legacy = LegacyFront(
            router=self._router,
            sessions=self._sessions,
            lists=self._lists,
            calls=self._calls,
            backends=self._backends,
            tasks=self._tasks,
            closing=lambda: self._entry.closing,
        )
        self._entry = Entry(self._visibility.view, legacy, ModernFront(self._router, self._tasks))
        self.app = self._entry.app
        """The ASGI application."""
        self._config = Config()
        self._config = Config()
        self._secrets: Secrets | None = None
        self._running = False
        self._stopped = asyncio.Event()

    # configuration

    def apply(self, config: Config, secrets: Secrets | None = None) -> None:
        """Apply a configuration: views change at once; backends that did not change keep their connections.

        `secrets` fills in the headers of each remote server when it is first connected to.
        """
        self._secrets = secrets
        old, self._config = self._config, config
        self._calls.annotate = self._lists.annotate = config.gateway.annotate_denials
        self._entry.apply(config)
        self._visibility.apply(config)
        rules = self._visibility.rules
        self._apply_backends(old, config)
        self._pins.apply({name: config.servers[name].pin for name in rules})
        for name, backend in self._backends.items():
            if (known := backend.catalog.lists.get(Kind.TOOLS)) is not None:
                self._pins.seen(name, known.items)
        self._visibility.renew()
        self._end_orphans(old, config)
        for name in rules:
            for method in CHANGED:
                self._subscriptions.lists_changed(name, method, ours=True)

    def _apply_backends(self, old: Config, config: Config) -> None:
        rules = self._visibility.rules
        for name in [name for name in self._backends if name not in rules]:
            self._tasks.spawn(self._backends.pop(name).close())
        for name in rules:
            server = config.servers[name]
            known = self._backends.get(name)
            if known is not None and _process(known.server) == _process(server):
                known.server = server
                known.call_timeout_s = server.call_timeout_s or config.gateway.call_timeout_s
                continue
            self._begin(name, server, config)

    def _begin(self, name: str, server: Server, config: Config) -> None:
        """Replace the backend's connections."""
        if (known := self._backends.get(name)) is not None:
            self._tasks.spawn(known.close())
        backend = self._backends[name] = self._backend(name, server, config)
        if self._running:
            self._start(backend)

    def reconnect(self, backend: str) -> None:
        """Connect to a backend again: one that was restarted, or a remote one, with its current secrets."""
        self._begin(backend, self._config.servers[backend], self._config)

    def _backend(self, name: str, server: Server, config: Config) -> Backend:
        messages = ServerMessages(name, self, self._emit)
        backend = Backend(
            name,
            server,
            instances=self._instances,
            sink=messages,
            tasks=self._tasks,
            call_timeout_s=server.call_timeout_s or config.gateway.call_timeout_s,
            start_timeout_s=server.start_timeout_s or config.gateway.start_timeout_s,
            remote=partial(placed_site, name, config, self._secrets) if server.remote else None,
            tracer=self._tracer,
        )
        messages.backend = backend
        backend.pace.on_slow = messages.slowed
        backend.owners.may_end, backend.owners.on_evicted = self._is_quiet, self._evicted
        backend.catalog.on_own_list = lambda kind, listing: self._listed_own(backend, kind, listing)
        self._list_cache.recall(backend, _process(server))
        backend.on_asks = lambda: self._list_cache.note(backend, _process(server))
        backend.catalog.on_lists = lambda kind, changed: self._listed(backend, kind, changed=changed)
        return backend

    def _end_orphans(self, old: Config, config: Config) -> None:
        """End the sessions and streams whose client or route is gone; the others get their new view."""

        def view(principal: Principal, route: str) -> View | None:
            return self._visibility.view(principal.client, route) if still_admitted(principal, old, config) else None

        for session in self._sessions:
            if view(session.owner, session.route) is None:
                self._sessions.close(session)
        self._subscriptions.look_again(view)

    # views

    def directory(self) -> Directory:
        """The current names and owners."""
        return self._visibility.directory()

    def _view_of(self, session: Session) -> View | None:
        return self._visibility.view(session.owner.client, session.route)

    def _listed(self, backend: Backend, kind: Kind, *, changed: bool) -> None:
        """A list was read: update names, pins and labels, and notify clients of a backend that came late."""
        if not changed:
            return
        self._visibility.lists_changed()
        self._list_cache.note(backend, _process(backend.server))
        if (notice := left_out(backend.name, kind, backend.catalog.lists[kind].flaws)) is not None:
            self._visibility.report_once(notice, notice.code, kind.value, backend.name)
        for method, kinds in CHANGED.items():
            if kind in kinds:
                self._subscriptions.lists_changed(backend.name, method)
        if kind is not Kind.TOOLS:
            if backend.catalog.lists[kind].items:
                self._visibility.directory()
            return
        tools = backend.catalog.lists[kind].items
        self.on_tools(backend.name, frozenset(tool["name"] for tool in tools))
        self._pins.seen(backend.name, tools)
        self._visibility.directory()

    def _listed_own(self, backend: Backend, kind: Kind, listing: Listing) -> None:
        """The list of one session's own process was read: its definitions are pinned like all others."""
        if kind is Kind.TOOLS:
            self._pins.seen(backend.name, listing.items, own=True)

    def tools(self, backend: str) -> list[dict[str, Any]]:
        """The definitions of a backend's tools, as last known."""
        known = self._backends.get(backend)
        listing = known.catalog.lists.get(Kind.TOOLS) if known is not None else None
        return listing.items if listing is not None else []

    def flaws(self, backend: str) -> Mapping[str, Sequence[str]]:
        """What was wrong with the backend's lists when they were last read: sentences under `left_out` and `reshaped`."""
        known = self._backends.get(backend)
        return describe(known.catalog.lists if known is not None else {})

    def trouble(self, backend: str) -> str:
        """Why connecting to a running backend, or reading its lists, failed; empty when it did not or was not tried."""
        found = self._backends.get(backend)
        return found.trouble if found is not None else ""

    def refused(self, backend: str) -> list[EgressEvent]:
        """What the server was refused outside of calls since its start, the newest first; a few."""
        return [event for event, _ in self.inflight.background.denials(backend)]

    def differences(self, backend: str) -> list[Difference]:
        """The tools whose definitions differ from the pinned ones, with both texts."""
        return self._pins.differences(backend)

    def approve(self, backend: str, tool: str) -> None:
        """Accept a changed tool definition. Raises KeyError for an unknown tool."""
        self._pins.approve(backend, tool)
        self._visibility.lists_changed()
        self._subscriptions.lists_changed(backend, "notifications/tools/list_changed", ours=True)

    # where the backends' own messages go

    def session(self, session_id: str) -> Session | None:
        """An open client session."""
        return self._sessions.by_id(session_id)

    def lists_changed(self, backend: str, method: str, owner: str) -> None:
        """A backend reported that its list changed."""
        self._subscriptions.lists_changed(backend, method, owner)

    def resource_updated(self, backend: str, params: dict[str, Any], owner: str) -> None:
        """A backend reported that a resource changed."""
        self._subscriptions.resource_updated(backend, params, owner)

    def is_anothers_task(self, task_id: str, principal: Principal, backend: str) -> bool:
        """Whether another principal began a backend's task."""
        return self._router.tasks.is_anothers(task_id, principal, backend)

    def _is_quiet(self, owner: str) -> bool:
        """Whether a session has no call under way."""
        session = self._sessions.by_id(owner)
        return session is None or not session.calls

    def _evicted(self, owner: str, why: str) -> None:
        """A session lost the process that held its state: end it, so that its client learns of it."""
        if (session := self._sessions.by_id(owner)) is not None:
            self._sessions.close(session, why)

    def _session_ended(self, session: Session) -> None:
        for call in list(session.calls.values()):
            call.cancel("the session ended")
        self._subscriptions.drop_session(session)
        for backend in self._backends.values():
            backend.release(session.id)
        self._meters.session_closed(
            client=session.owner.client,
            protocol_version=session.version,
            duration_s=time.monotonic() - session.started,
        )

    # running

    async def run(self) -> None:
        """Do the housekeeping until `close`: connect eager backends, expire sessions, reap idle connections."""
        self._running = True
        for backend in self._backends.values():
            self._start(backend)
        while not self._stopped.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HOUSEKEEPING_S):
                    await self._stopped.wait()
            self.expire_sessions(IDLE_S)
            for backend in self._backends.values():
                backend.reap()

    def expire_sessions(self, idle_s: float) -> None:
        """End the sessions that were idle for `idle_s`."""
        self._sessions.expire(idle_s)

    def _start(self, backend: Backend) -> None:
        if backend.server.start is Start.EAGER:
            self._tasks.spawn(self._warm(backend))

    async def _warm(self, backend: Backend) -> None:
        for kind in Kind:
            try:
                await backend.catalog.listing(kind)
            except BeingBuilt:
                return  # its lists are read after that
            except RpcError as error:
                logger.warning("%s", error.message)
                return

    async def close(self, grace_s: float) -> None:
        """Finish the calls in flight within the grace, refuse new ones, and close all connections."""
        self._entry.closing = True
        self._subscriptions.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self.inflight.wait_idle()
        self._calls.parking.clear()
        for session in self._sessions:
            self._sessions.close(session)
        for backend in list(self._backends.values()):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await backend.close()
        await self._list_cache.close()
        await self._pins.close()
        self._stopped.set()
        await self._tasks.close()


_LIVE: Final = frozenset(
    {"tools", "prompts", "network", "pin", "prefix", "call_timeout_s", "start", "disabled", "sessions", "resources"}
    | {"spares"}
)


def _process(server: Server) -> dict[str, Any]:
    """The part of a server's entry that its connections depend on."""
    return server.model_dump(exclude=set(_LIVE) - {"sessions"})
