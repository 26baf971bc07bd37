"""The MCP endpoint: one ASGI application for `/mcp` and `/servers/NAME/mcp`, in both eras.

This is where the parts of the package are put together. A request's era is its `MCP-Protocol-Version` header: a
revision up to 2025-11-25, or none, is served in a session; anything else by itself.
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

from gateway.mcp.call.answer import ClientGone, Headers, Receive, Send, reply_plain
from gateway.mcp.call.inflight import InFlight
from gateway.mcp.call.messages import LEGACY_VERSIONS
from gateway.mcp.call.principal import Principal
from gateway.mcp.call.sessions import IDLE_S, Session, Sessions
from gateway.mcp.downstream.auth import Denied, Gate, still_admitted
from gateway.mcp.downstream.http import (
    HostGuard,
    Refused,
    read_headers,
)
from gateway.mcp.downstream.legacy import LegacyFront
from gateway.mcp.downstream.modern import ModernFront
from gateway.mcp.downstream.oauth import WELL_KNOWN, JwtVerifier
from gateway.mcp.route.calls import Calls, Fence
from gateway.mcp.route.lists import Lists
from gateway.mcp.route.route import Router
from gateway.mcp.route.subscriptions import Watches
from gateway.mcp.upstream.backend import Backend
from gateway.mcp.upstream.cache import Keep
from gateway.mcp.upstream.pushes import Pushes
from gateway.mcp.upstream.remote import Secrets, placed_site
from gateway.mcp.upstream.sharing import Instances
from gateway.mcp.view.claims import Claims
from gateway.mcp.view.listing import CHANGED, Kind, Listing
from gateway.mcp.view.notices import left_out, told
from gateway.mcp.view.pinned_text import Difference
from gateway.mcp.view.pins import Pins
from gateway.mcp.view.search import Search
from gateway.mcp.view.views import Directory, Rules, View, view_for
from gateway.mcp.wire.errors import INTERNAL_ERROR, RpcError
from gateway.mcp.wire.tasks import Tasks
from observability.events import Event, NoticeEvent, Severity, ToolChange, ToolEvent
from observability.instruments import Meters
from registry.config import Config
from registry.model.fields import Start
from registry.model.server import Server

logger = logging.getLogger(__name__)

_HOUSEKEEPING_S: Final = 10.0
_LEGACY: Final = frozenset(LEGACY_VERSIONS)
_MAX_TOLD: Final = 10_000


class Endpoint:
    """The endpoint. `app` is mounted at / of the MCP listener; `run` must be running while it serves."""

    def __init__(
        self,
        *,
        supervisor: Instances,
        fence: Fence,
        emit: Callable[[Event], object],
        meters: Meters,
        tracer: Tracer | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        """`cache_dir` keeps tool lists and pins from one run to the next."""
        self.inflight = InFlight()
        self.on_tools: Callable[[str, frozenset[str]], None] = lambda _backend, _tools: None
        """Called with the names of a backend's tools when they were read (the instruments' vocabulary)."""
        self._instances = supervisor
        self._emit = emit
        self._meters = meters
        self._tracer = tracer
        self._tasks = Tasks()
        self._backends: dict[str, Backend] = {}
        self._views: dict[tuple[str, str], View | None] = {}
        self._directory: Directory | None = None
        self._pins = Pins(emit, cache_dir)
        self._sessions = Sessions(self._session_ended)
        self._watches = Watches(self._tasks, lambda: self._sessions, self._view_of)
        self._calls = Calls(
            inflight=self.inflight, fence=fence, emit=emit, meters=meters, tracer=tracer, tasks=self._tasks
        )
        self._lists = Lists(self._backends, self._tasks)
        self._watches.backends = self._backends
        self._router = Router(
            backends=self._backends,
            calls=self._calls,
            lists=self._lists,
            watches=self._watches,
            search=Search(),
            emit=emit,
            meters=meters,
        )
        self._modern = ModernFront(self._router, self._tasks)
        self._legacy = LegacyFront(
            router=self._router,
            sessions=self._sessions,
            lists=self._lists,
            calls=self._calls,
            backends=self._backends,
            tasks=self._tasks,
            closing=lambda: self._closing,
        )
        self._config = Config()
        self.verifier: JwtVerifier | None = None
        self._gate = Gate(self._config, None)
        self._secrets: Secrets | None = None
        self._keep = Keep(cache_dir)
        self._guard = HostGuard("127.0.0.1:0", (), ())
        self._rules: dict[str, Rules] = {}
        self._claims = Claims(self._keep.contested)
        self._told: set[tuple[str, ...]] = set()
        self._running = False
        self._closing = False
        self._stopped = asyncio.Event()

    # configuration

    def apply(self, config: Config, secrets: Secrets | None = None) -> None:
        """Take a configuration: new views at once; backends that did not change keep their connections.

        `secrets` fills in the headers of remote servers, each when it is first spoken to.
        """
        self._secrets = secrets
        gateway = config.gateway
        old, self._config = self._config, config
        self._calls.annotate = gateway.annotate_denials
        self._modern.max_body_bytes = self._legacy.max_body_bytes = gateway.max_body_bytes
        self.verifier = self._make_verifier(config)
        self._gate = Gate(config, self.verifier)
        self._guard = HostGuard(gateway.listen, gateway.allowed_hosts, gateway.allowed_origins)
        self._rules = {
            name: Rules(name, server, gateway.separator)
            for name, server in config.servers.items()
            if not server.disabled
        }
        self._apply_backends(old, config)
        self._claims.keep(list(self._rules))
        self._pins.apply({name: config.servers[name].pin for name in self._rules})
        for name, backend in self._backends.items():
            if (known := backend.offers.lists.get(Kind.TOOLS)) is not None:
                self._pins.seen(name, known.items)
        self._views.clear()
        self._directory = None
        self._end_orphans(old, config)
        for name in self._rules:
            for method in CHANGED:
                self._watches.lists_changed(name, method, ours=True)

    def _make_verifier(self, config: Config) -> JwtVerifier | None:
        """The old one, with the keys it fetched, where nothing changed for it."""
        oauth = config.gateway.auth.oauth if config.gateway.auth is not None else None
        old = self.verifier
        if oauth is None or (old is not None and old.settings == oauth and old.clients == frozenset(config.clients)):
            return old if oauth is not None else None
        return JwtVerifier(oauth, config.clients)

    def _apply_backends(self, old: Config, config: Config) -> None:
        for name in [name for name in self._backends if name not in self._rules]:
            self._tasks.spawn(self._backends.pop(name).close())
        for name in self._rules:
            server = config.servers[name]
            known = self._backends.get(name)
            if known is not None and _process(known.server) == _process(server):
                known.server = server
                known.call_timeout_s = server.call_timeout_s or config.gateway.call_timeout_s
                continue
            self._begin(name, server, config)

    def _begin(self, name: str, server: Server, config: Config) -> None:
        """The backend's connections from now on, instead of those it had."""
        if (known := self._backends.get(name)) is not None:
            self._tasks.spawn(known.close())
        backend = self._backends[name] = self._backend(name, server, config)
        if self._running:
            self._start(backend)

    def reconnect(self, backend: str) -> None:
        """Speak to a backend anew: one that was restarted, or a remote one, with its secrets as they are now."""
        self._begin(backend, self._config.servers[backend], self._config)

    def _backend(self, name: str, server: Server, config: Config) -> Backend:
        pushes = Pushes(name, self, self._emit)
        backend = Backend(
            name,
            server,
            instances=self._instances,
            sink=pushes,
            tasks=self._tasks,
            call_timeout_s=server.call_timeout_s or config.gateway.call_timeout_s,
            start_timeout_s=server.start_timeout_s or config.gateway.start_timeout_s,
            remote=partial(placed_site, name, config, self._secrets) if server.remote else None,
            tracer=self._tracer,
        )
        pushes.backend = backend
        backend.pace.on_slow = pushes.slowed
        backend.owners.may_end, backend.owners.on_evicted = self._is_quiet, self._evicted
        backend.offers.on_own_list = lambda kind, listing: self._listed_own(backend, kind, listing)
        self._keep.recall(backend, _process(server))
        backend.offers.on_lists = lambda kind, changed: self._listed(backend, kind, changed=changed)
        return backend

    def _end_orphans(self, old: Config, config: Config) -> None:
        """Sessions and streams whose client or route is gone end; what goes on sees what it may see from now on."""

        def view(principal: Principal, route: str) -> View | None:
            return self._view(principal.client, route) if still_admitted(principal, old, config) else None

        for session in self._sessions:
            if view(session.owner, session.route) is None:
                self._sessions.close(session)
        self._watches.look_again(view)

    # views

    def directory(self) -> Directory:
        """Names and owners, as the lists stand."""
        if self._directory is None:
            listings: dict[tuple[str, Kind], Listing] = {
                (name, kind): listing
                for name, backend in self._backends.items()
                for kind, listing in backend.offers.lists.items()
            }
            self._directory = Directory(self._rules, listings, self._config.gateway.separator, self._claims)
            self._keep.note_contested(self._claims.contested)
            self._tell_conflicts(self._directory)
        return self._directory

    def _tell_conflicts(self, directory: Directory) -> None:
        """Say once what two backends wanted, and who has it."""
        for name, tool, instead in directory.tables[Kind.TOOLS].conflicts:
            detail = f"another backend has that name already; this one is {instead}"
            event = ToolEvent(time=_now(), backend=name, tool=tool, change=ToolChange.RENAMED, detail=detail)
            self._tell_once(event, name, tool)
        for kind, name, owner, key in directory.contested:
            message = (
                f"Backend {name} lists a resource that backend {owner} had first, such as {key[:200]!r}. On /mcp it stays "
                f"{owner}'s; /servers/{name}/mcp has this one's."
            )
            notice = NoticeEvent(
                time=_now(), source="gateway", code="resource_contested", severity=Severity.WARNING, backend=name,
                message=message,
            )  # fmt: skip
            self._tell_once(notice, kind.value, name, owner)

    def _tell_once(self, event: Event, *about: str) -> None:
        if about not in self._told and len(self._told) < _MAX_TOLD:
            self._told.add(about)
            self._emit(event)

    def _view(self, client: str, route: str) -> View | None:
        key = (client, route)
        if key not in self._views:
            if len(self._views) > 4096:
                self._views.clear()
            if route and route not in self._backends:
                return None
            self._views[key] = view_for(self._config, client, route, self.directory, self._pins.hidden)
        return self._views[key]

    def _view_of(self, session: Session) -> View | None:
        return self._view(session.owner.client, session.route)

    def _listed(self, backend: Backend, kind: Kind, *, changed: bool) -> None:
        """A list was read: names, pins and labels follow, and clients hear of a backend that came late."""
        if not changed:
            return
        self._directory = None
        self._keep.note(backend, _process(backend.server))
        if (notice := left_out(backend.name, kind, backend.offers.lists[kind].flaws)) is not None:
            self._tell_once(notice, notice.code, kind.value, backend.name)
        for method, kinds in CHANGED.items():
            if kind in kinds:
                self._watches.lists_changed(backend.name, method)
        if kind is not Kind.TOOLS:
            if backend.offers.lists[kind].items:
                self.directory()
            return
        tools = backend.offers.lists[kind].items
        self.on_tools(backend.name, frozenset(tool["name"] for tool in tools))
        self._pins.seen(backend.name, tools)
        self.directory()

    def _listed_own(self, backend: Backend, kind: Kind, listing: Listing) -> None:
        """One session's process has been read: its definitions are pinned like everybody's."""
        if kind is Kind.TOOLS:
            self._pins.seen(backend.name, listing.items, own=True)

    def tools(self, backend: str) -> list[dict[str, Any]]:
        """The definitions of a backend's tools, as last known."""
        known = self._backends.get(backend)
        listing = known.offers.lists.get(Kind.TOOLS) if known is not None else None
        return listing.items if listing is not None else []

    def flaws(self, backend: str) -> Mapping[str, Sequence[str]]:
        """What was wrong with the backend's lists when they were last read: `left_out` and `reshaped`, in sentences."""
        known = self._backends.get(backend)
        return told(known.offers.lists if known is not None else {})

    def trouble(self, backend: str) -> str:
        """Why a backend that runs could not be spoken to; empty when it could, or was not tried."""
        found = self._backends.get(backend)
        return found.trouble if found is not None else ""

    def differences(self, backend: str) -> list[Difference]:
        """The tools whose definitions are not the pinned ones, with what they said and say."""
        return self._pins.differences(backend)

    def approve(self, backend: str, tool: str) -> None:
        """Accept a changed tool definition. Raises KeyError for a tool nobody knows."""
        self._pins.approve(backend, tool)
        self._directory = None
        self._watches.lists_changed(backend, "notifications/tools/list_changed", ours=True)

    # outlets of the backends' pushes

    def session(self, session_id: str) -> Session | None:
        """An open client session."""
        return self._sessions.by_id(session_id)

    def lists_changed(self, backend: str, method: str, owner: str) -> None:
        """A backend said so."""
        self._watches.lists_changed(backend, method, owner)

    def resource_updated(self, backend: str, params: dict[str, Any], owner: str) -> None:
        """A backend said so."""
        self._watches.resource_updated(backend, params, owner)

    def is_anothers_task(self, task_id: str, principal: Principal, backend: str) -> bool:
        """Whether a backend's task was begun by somebody else."""
        return self._router.tasks.is_anothers(task_id, principal, backend)

    def _is_quiet(self, owner: str) -> bool:
        """Whether nothing of a session's is under way."""
        session = self._sessions.by_id(owner)
        return session is None or not session.calls

    def _evicted(self, owner: str, why: str) -> None:
        """A session lost the process that held its state: it ends, so that its client is told."""
        if (session := self._sessions.by_id(owner)) is not None:
            self._sessions.close(session, why)

    def _session_ended(self, session: Session) -> None:
        for call in list(session.calls.values()):
            call.cancel("the session ended")
        self._watches.drop_session(session)
        for backend in self._backends.values():
            backend.release(session.id)
        self._meters.session_closed(
            client=session.owner.client, protocol_version=session.version, duration_s=_monotonic() - session.started
        )

    # life

    async def run(self) -> None:
        """Keep house until `close`: connect eager backends, expire sessions, reap idle connections."""
        self._running = True
        for backend in self._backends.values():
            self._start(backend)
        while not self._stopped.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HOUSEKEEPING_S):
                    await self._stopped.wait()
            self._keep.save()
            self.expire_sessions(IDLE_S)
            for backend in self._backends.values():
                backend.reap()

    def expire_sessions(self, idle_s: float) -> None:
        """End the sessions that nobody used for so long."""
        self._sessions.expire(idle_s)

    def _start(self, backend: Backend) -> None:
        if backend.server.start is Start.EAGER:
            self._tasks.spawn(self._warm(backend))

    async def _warm(self, backend: Backend) -> None:
        for kind in Kind:
            try:
                await backend.offers.listing(kind)
            except RpcError as error:
                logger.warning("%s", error.message)
                return

    async def close(self, grace_s: float) -> None:
        """Finish the calls in flight within the grace, refuse new ones, and close all connections."""
        self._closing = True
        self._watches.close()
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
        await self._keep.close()
        await self._pins.close()
        self._stopped.set()
        await self._tasks.close()

    # HTTP

    async def app(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        headers: dict[str, str] = {}
        try:
            headers = read_headers(scope["headers"])
            self._guard.check(headers)
            await self._serve(scope, headers, receive, send)
        except Refused as refused:
            allow: Headers = [(b"allow", refused.allow.encode())] if refused.allow else []
            await reply_plain(send, refused.status, refused.body(), allow)
        except Denied as denied:
            challenge = [(b"www-authenticate", denied.challenge(self._metadata_url(scope, headers)))]
            await reply_plain(send, denied.status, denied.body(), challenge)
        except (ClientGone, EOFError):
            return

    async def _serve(self, scope: Mapping[str, Any], headers: dict[str, str], receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path.startswith(WELL_KNOWN) and self.verifier is not None:
            await self._metadata(self.verifier, scope, path.removeprefix(WELL_KNOWN) or "/mcp", headers, send)
            return
        route = _route(path)
        if route is None:
            raise Refused(404, "Not Found")
        client = scope.get("client")
        config = self._config
        principal = await self._gate.admit(headers, client[0] if client else "", path)

        def look() -> View:
            if config is not self._config and not still_admitted(principal, config, self._config):
                raise Denied(401, "invalid_token", "This gateway does not know the token any more")
            view = self._view(principal.client, route)
            if view is None:
                raise Refused(404, f"There is no server {route} for this client")
            return view

        look()
        if self._closing:
            raise Refused(503, "The gateway is stopping", INTERNAL_ERROR)
        version = headers.get("mcp-protocol-version")
        if version is None or version in _LEGACY:
            await self._legacy.serve(scope["method"], principal, look, headers, receive, send)
        else:
            await self._modern.serve(scope["method"], principal, look, version, headers, receive, send)

    async def _metadata(
        self, verifier: JwtVerifier, scope: Mapping[str, Any], path: str, headers: Mapping[str, str], send: Send
    ) -> None:
        """Protected resource metadata, for every path that could be an endpoint's."""
        if _route(path) is None:
            raise Refused(404, "Not Found")
        if scope["method"] != "GET":
            raise Refused(405, "Method Not Allowed", allow="GET")
        await reply_plain(send, 200, verifier.metadata(_base(scope, headers), path))

    def _metadata_url(self, scope: Mapping[str, Any], headers: Mapping[str, str]) -> str | None:
        if self.verifier is None:
            return None
        return (self.verifier.origin or _base(scope, headers)) + WELL_KNOWN + str(scope["path"])


def _base(scope: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    """Scheme and authority as the client sees them; the Host header has passed the guard."""
    return f"{scope.get('scheme', 'http')}://{headers.get('host', '')}"


def _route(path: str) -> str | None:
    """The backend that a path names, empty for `/mcp`, None for no endpoint."""
    if path == "/mcp":
        return ""
    if path.startswith("/servers/") and path.endswith("/mcp"):
        name = path[9:-4]
        return name if name and "/" not in name else None
    return None


_LIVE: Final = frozenset(
    {"tools", "prompts", "network", "pin", "prefix", "call_timeout_s", "start", "disabled", "sessions", "resources"}
    | {"spares"}
)


def _process(server: Server) -> dict[str, Any]:
    """What of a server's entry its connections depend on."""
    return server.model_dump(exclude=set(_LIVE) - {"sessions"})


def _now() -> float:
    return time.time()


def _monotonic() -> float:
    return time.monotonic()


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
