"""One backend: its connections, one for each generation of the protocol and, where needed, for each client session.

Theory of operation. A connection's key says which clients share it: `ConnectionKey(modern, owner)`, with an empty owner for
a shared one. HTTP backends serve both generations in one process, and each legacy session of a client gets a session of its
own there. A stdio process is locked to the generation of its first request. So `sessions: auto` has one process for each
generation that clients speak (`shared`: one for all, and the other generation is translated), and one for a client session
where the backend is known to send requests or messages of its own; where a session lives: `homes.py`.

Connections are made when they are first needed and again when they are gone; while a backend keeps failing, further
attempts fail at once for a while. Its lists: `catalog.py`; how a connection is made: `connecting.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from opentelemetry.trace import Tracer

from gateway.mcp.call.messages import (
    About,
    Call,
    Greeting,
    Peer,
    Sink,
    envelope,
)
from gateway.mcp.upstream.builds import BeingBuilt, Builds, refusal
from gateway.mcp.upstream.catalog import LIST_TIMEOUT_S, BackendCatalog
from gateway.mcp.upstream.connecting import Connector
from gateway.mcp.upstream.handshake import US, greet, send
from gateway.mcp.upstream.homes import QUIET, Homes, digest
from gateway.mcp.upstream.http_peer import HttpPeer
from gateway.mcp.upstream.log_levels import LogLevels
from gateway.mcp.upstream.room import Farewell, Full, Owners
from gateway.mcp.upstream.sharing import ConnectionKey, Instances, Line, Tries
from gateway.mcp.upstream.site import Site
from gateway.mcp.upstream.stdio import StdioPeer
from gateway.mcp.view.listing import LISTEN_FLAG, Kind, declares
from gateway.mcp.wire.errors import UNAVAILABLE, ConnectFailed, PeerClosed, RpcError, unavailable
from gateway.mcp.wire.tasks import Tasks
from gateway.pace import Pace
from gateway.runtime.sandbox.errors import BackendUnavailable
from gateway.runtime.supervise.warm import MAX_OWN
from registry.model.errors import ConfigError
from registry.model.fields import Sessions, Start, Transport
from registry.model.server import Server

if TYPE_CHECKING:
    from gateway.mcp.call.caller import Caller

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_BACKOFF_S: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
_MAX_OWN_HTTP: Final = 4 * 1024
"""Connections of an HTTP backend that belong to one client session each; on stdio each is a container: `MAX_OWN`."""
IDLE_OWN_S: Final = 300.0
SESSION_ID_LENGTH: Final = 32
"""A session owns its connection; a principal's digest, which is shorter, may stand for several programs."""


class Backend:
    """A backend's connections and lists."""

    def __init__(
        self,
        name: str,
        server: Server,
        *,
        instances: Instances,
        sink: Sink,
        tasks: Tasks,
        call_timeout_s: float,
        start_timeout_s: float,
        remote: Callable[[], Site] | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.name = name
        self.server = server
        self.call_timeout_s = call_timeout_s
        self.catalog = BackendCatalog(self)
        self.pace = Pace()
        """What all its connections together may take of the loop for output that no client asked for."""
        self.abouts: dict[bool, About] = {}
        """What it declared when it was greeted, by generation (True: modern)."""
        self._instances = instances
        self.tasks = tasks
        self.builds = Builds(name, instances, tasks, self.catalog)
        self._start_timeout_s = start_timeout_s
        self._connector = Connector(name, instances, sink, tasks, self.pace, remote, tracer)
        self.levels = LogLevels(name)
        self._lines: dict[ConnectionKey, Line] = {}
        self._opening: dict[ConnectionKey, asyncio.Task[Line]] = {}
        self._speaks: dict[bool, bool] = {}
        self.homes = Homes(server)
        self.on_asks: Callable[[], None] = lambda: None
        """Called when it first asks something."""
        self._releasing: set[asyncio.Task[None]] = set()
        self._tries: dict[str, Tries] = {}
        """By owner: what fails for one client session, perhaps because of its client, delays no other."""
        self.owners = Owners()
        self._last_error = ""
        self.closed = False

    # which clients share a connection

    @property
    def stdio(self) -> bool:
        """Whether it is connected by a pipe."""
        return self.server.transport is Transport.STDIO

    def saw_push(self) -> None:
        """It sent a request of its own accord."""
        if not self.homes.asks:
            self.homes.asks = True
            self.on_asks()

    def key(self, caller: Caller | None) -> ConnectionKey:
        """The key of the connection that a caller's requests go through."""
        modern = self._era_for(caller)
        if caller is None or (modern and not self._split_modern()):
            return ConnectionKey(modern)
        return ConnectionKey(modern, digest(caller) if modern else self.homes.owner(caller))

    def stay(self, caller: Caller, peer: Peer) -> None:
        """A call goes over this connection; those of the same session that follow go there too."""
        if not peer.modern and not self.homes.knows(caller):
            owner = next((key.owner for key, line in self._lines.items() if line.peer is peer), None)
            if owner is not None:
                self.homes.stay(caller, owner)

    def _split_modern(self) -> bool:
        return self.server.sessions is Sessions.PER_CLIENT and self.stdio

    def _era_for(self, caller: Caller | None) -> bool:
        wanted = caller.modern if caller is not None else self._any_era()
        if self._speaks.get(wanted) is False and self._speaks.get(not wanted):
            return not wanted
        if self.stdio and self.server.sessions is Sessions.SHARED:
            for key in (ConnectionKey(wanted), ConnectionKey(not wanted)):
                if key in self._lines or key in self._opening:
                    return key.modern
        return wanted

    def _any_era(self) -> bool:
        """The generation for our own requests: that of an open connection, else modern on HTTP and legacy on a pipe."""
        for key, line in self._lines.items():
            if not key.owner and not line.peer.closed:
                return key.modern
        return not self.stdio

    @property
    def trouble(self) -> str:
        """Why the last attempt to connect failed, else why its lists could not be read; empty when all is well."""
        return self._last_error or self.catalog.trouble

    def is_shared(self, caller: Caller) -> bool:
        """Whether the caller's connection is a shared one."""
        return self.key(caller).owner in ("", QUIET)

    # connections

    def ready(self, caller: Caller) -> Peer | None:
        """The caller's connection, if it is open."""
        line = self._lines.get(self.key(caller))
        if line is None or line.peer.closed:
            return None
        line.used = time.monotonic()
        return line.peer

    async def peer(self, caller: Caller | None) -> Peer:
        """The caller's connection, opened if need be. Raises RpcError."""
        for _ in range(3):
            key = self.key(caller)
            line = self._lines.get(key)
            if line is None or line.peer.closed:
                line = await self._open_once(key, caller)
            if self.key(caller) == key:
                line.used = time.monotonic()
                return line.peer
        raise unavailable(self.name, "it changes its mind about the protocol revision it speaks")

    async def prepare(self, caller: Caller) -> None:
        """Begin the process that a new session will need before its first call, if it needs one of its own."""
        if not self.stdio or (self.server.start is Start.LAZY and not self.peers()):
            return
        with contextlib.suppress(RpcError):
            if self.server.sessions is Sessions.AUTO and Kind.TOOLS not in self.catalog.lists:
                await self.catalog.listing(Kind.TOOLS)  # what asks right after its greeting has asked by then
            key = self.key(caller)
            if key.owner and not self.owners.is_half_full(self._lines, self._opening, MAX_OWN):
                await self.peer(caller)

    async def _open_once(self, key: ConnectionKey, caller: Caller | None) -> Line:
        task = self._opening.get(key)
        if task is None:
            if self.closed:
                raise unavailable(self.name, "it was removed from the configuration")
            tries = self._tries.get(key.owner)
            if tries is not None and time.monotonic() < tries.retry_at:
                raise unavailable(self.name, f"{tries.error} (it failed {tries.failures} times; wait a little)")
            self._make_room(key, caller)
            greeting = self._greeting(key, caller)
            task = self.tasks.begin(self._open(key, greeting))
            self._opening[key] = task
            task.add_done_callback(lambda done: self._opened(key, done))
        return await self.outcome(task)

    async def outcome(self, task: asyncio.Task[_T]) -> _T:
        """The result of a shared task. Raises RpcError, also when the backend or the gateway was closed meanwhile."""
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if not task.cancelled() or (caller is not None and caller.cancelling()):
                raise  # the caller was cancelled
            raise unavailable(self.name, "it was stopped, or its configuration changed, meanwhile") from None

    def _opened(self, key: ConnectionKey, task: asyncio.Task[Line]) -> None:
        self._opening.pop(key, None)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._tries.pop(key.owner, None)
            self._last_error = ""
            return
        if isinstance(error, BeingBuilt):
            self.builds.follow()
            return
        if len(self._tries) > _MAX_OWN_HTTP:
            self._tries.clear()
        tries = self._tries.setdefault(key.owner, Tries())
        if isinstance(error, RpcError):
            tries.error = error.reason
            if not key.owner or error.kind == UNAVAILABLE:
                self._last_error = tries.error
        tries.retry_at = time.monotonic() + _BACKOFF_S[min(tries.failures, len(_BACKOFF_S) - 1)]
        tries.failures += 1

    def _greeting(self, key: ConnectionKey, caller: Caller | None) -> Greeting | None:
        """A session's own connection introduces that session's client; a shared one introduces the gateway, the quiet one
        as a client that cannot be asked."""
        if key.owner == QUIET:
            return Greeting(client=US)
        if caller is None or not key.owner or caller.session is None:
            return None
        return Greeting(caller.session.version, caller.session.capabilities, caller.session.client)

    async def _open(self, key: ConnectionKey, greeting: Greeting | None) -> Line:
        try:
            async with asyncio.timeout(self._start_timeout_s + LIST_TIMEOUT_S):
                line = await self._greeted(key, greeting)
        except BackendUnavailable as error:
            raise refusal(self.name, error) from error
        except TimeoutError:
            raise unavailable(self.name, f"it was not ready within {self._start_timeout_s:g} s") from None
        except (PeerClosed, OSError, ConfigError) as error:
            raise unavailable(self.name, str(error)) from error
        return self._settle(line, key)

    async def _greeted(self, key: ConnectionKey, greeting: Greeting | None) -> Line:
        """A connection that was greeted. While its port is closed, the supervisor is asked for the instance again each time:
        the process may not be up yet, or its end was not noticed yet."""
        deadline = time.monotonic() + self._start_timeout_s
        while True:
            line = await self._connector.connect(key, self.server)
            try:
                await self._greet(line, key, greeting)
                return line
            except ConnectFailed:
                self._give_up(line)
                if self._connector.remote or time.monotonic() > deadline:  # a remote one is not ours to wait for
                    raise
            except BaseException:
                self._give_up(line)
                raise
            await asyncio.sleep(0.1)

    def _give_up(self, line: Line) -> None:
        """The greeting failed. A process on a pipe cannot be greeted twice, so it is restarted."""
        line.peer.drop("the greeting failed")
        if self.stdio and line.instance is not None and not self.closed:
            self.tasks.spawn(self._instances.renew(line.instance.id))

    async def _greet(self, line: Line, key: ConnectionKey, greeting: Greeting | None) -> None:
        if isinstance(line.peer, HttpPeer):
            line.peer.schema = self.catalog.schema
        await greet(line.peer, self.name, modern_first=key.modern, greeting=greeting, timeout_s=self._start_timeout_s)

    def _settle(self, line: Line, key: ConnectionKey) -> Line:
        """File the connection under the generation that it turned out to speak."""
        peer = line.peer
        self.abouts[peer.modern] = peer.about
        self._speaks[peer.modern] = True
        actual = ConnectionKey(peer.modern, key.owner)
        if peer.modern != key.modern:
            if not (key.owner and self._speaks.get(key.modern)):  # else it refused what that one client said
                self._speaks[key.modern] = False
            if not key.owner:
                self._connector.speaks(peer.modern, instead_of=key.modern)
            if key.owner and peer.modern:
                actual = ConnectionKey(True)
        if actual != key and (other := self._lines.get(actual)) is not None and not other.peer.closed:
            self.tasks.spawn(self._discard(line))
            return other
        peer.session = actual.owner if len(actual.owner) == SESSION_ID_LENGTH else ""
        capabilities = peer.about.capabilities
        if not peer.modern and ("logging" in capabilities or declares(capabilities, "resources", "subscribe")):
            self.homes.tells = True
        line.used = time.monotonic()
        self._lines[actual] = line
        self._watch(peer)
        if not actual.owner and self.catalog.orphaned:
            self.tasks.spawn(self.catalog.read_again())
        return line

    def _watch(self, peer: StdioPeer | HttpPeer) -> None:
        """Have the connection report changed lists."""
        if peer.modern:
            self.tasks.spawn(self._listen(peer))
        elif isinstance(peer, HttpPeer):
            peer.listen()

    async def _listen(self, peer: Peer) -> None:
        """A standing subscription to a modern backend's list changes."""
        flags = {
            flag: True
            for method, flag in LISTEN_FLAG.items()
            if declares(peer.about.capabilities, method.split("/")[1], "listChanged")
        }
        if flags:
            params = {"notifications": flags, "_meta": envelope({}, US)}
            call = Call(self.name, "subscriptions/listen", params, None, None)
            try:
                await send(peer, call)
                await call.result()
            except (RpcError, PeerClosed) as error:
                logger.info("server %s: its list changes cannot be followed: %s", self.name, error)

    def _make_room(self, key: ConnectionKey, caller: Caller | None) -> None:
        """Keep the number of connections owned by one session each below its cap. Raises RpcError."""
        if key.owner in ("", QUIET) or caller is None:
            return
        most = MAX_OWN if self.stdio else _MAX_OWN_HTTP
        try:
            owner = self.owners.for_new(key.owner, caller, self._lines, self._opening, most)
        except Full as error:
            raise unavailable(self.name, str(error)) from None
        if owner is not None:
            self.release(owner)
            why = f"another session of the same client needed a process of {self.name}, of which there are {most} at most"
            self.owners.evicted(owner, why)

    def farewell(self, caller: Caller) -> Farewell | None:
        """Why the caller's own process is gone; returned once."""
        return self.owners.farewell(self.key(caller).owner)

    def release(self, owner: str) -> None:
        """A client session ended: close its own connections."""
        self.owners.forget(owner)
        self.homes.forget(owner)
        for key in [key for key in self._lines if key.owner == owner]:
            line = self._lines.pop(key)
            task = self.tasks.spawn(self._close(line, key))
            self._releasing.add(task)
            task.add_done_callback(self._releasing.discard)

    def reap(self) -> None:
        """Close owned connections that were idle for long."""
        horizon = time.monotonic() - IDLE_OWN_S
        for key, line in list(self._lines.items()):
            if not key.owner or line.used >= horizon or not line.idle:
                continue
            used = not self.stdio or key.modern or self.homes.is_inhabited(key.owner)
            if key.owner == QUIET and used:
                continue
            self.release(key.owner)
            if used:
                why = f"it was not used for {IDLE_OWN_S:g} s, so the process that it had of {self.name} ended"
                self.owners.reaped(key.owner, why)

    async def _discard(self, line: Line) -> None:
        """Close a connection that turned out to be a duplicate."""
        await line.peer.close()
        if line.instance is not None and self.stdio:
            await self._instances.release(line.instance.id)

    async def _close(self, line: Line, key: ConnectionKey) -> None:
        await line.peer.close()
        if line.instance is not None and key.owner and (self.stdio or self.server.sessions is Sessions.PER_CLIENT):
            await self._instances.release(line.instance.id)

    def gone(self, peer: Peer) -> None:
        """A connection ended."""
        for key, line in list(self._lines.items()):
            if line.peer is peer:
                del self._lines[key]
                self.catalog.lost(peer)
                if not key.modern:
                    self.homes.lost(key.owner)

    def lost(self, peer: Peer) -> None:
        """The process behind a connection is unreachable: drop all connections to it, and ask the supervisor again."""
        instance = next((line.instance for line in self._lines.values() if line.peer is peer), None)
        for line in [line for line in self._lines.values() if line.peer is peer or line.instance is instance]:
            line.peer.drop("its process is gone")
        if instance is not None:
            self._connector.forget(instance)

    async def close(self) -> None:
        """Close all connections."""
        self.closed = True
        for task in self._opening.values():
            task.cancel()
        self.catalog.close()
        lines, self._lines = self._lines, {}
        await asyncio.gather(*self._releasing, *(self._close(line, key) for key, line in lines.items()))
        self._connector.close()

    def peers(self) -> list[Peer]:
        """The open connections."""
        return [line.peer for line in self._lines.values() if not line.peer.closed]

    def own_peer(self, owner: str) -> Peer | None:
        """The connection of one session, if it has one."""
        line = self._lines.get(ConnectionKey(False, owner))
        return line.peer if line is not None and not line.peer.closed else None

    def used_peer(self, owner: str) -> Peer | None:
        """The same, once a call went over it: one that was only prepared holds nothing of the session's."""
        return self.own_peer(owner) if not self.stdio or self.homes.is_used(owner) else None

    # what it declares

    async def about(self, modern: bool) -> About:
        """What it declares to clients of this generation. Raises RpcError."""
        if not self.abouts:
            await self.peer(None)
        return self.abouts.get(modern) or next(iter(self.abouts.values()))

    def unheard(self, *, modern: bool) -> bool:
        """Whether it may speak that generation and was never greeted in it."""
        return modern not in self.abouts and self._speaks.get(modern) is not False
