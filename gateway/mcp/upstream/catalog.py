"""The tools, prompts, resources and templates of one backend, as last read.

The common lists are read from a shared connection. A client session's own process may list other things, so the lists of
its connection are held beside the common ones while that connection lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from gateway.mcp.call.messages import Peer, envelope
from gateway.mcp.upstream.handshake import US, ask
from gateway.mcp.upstream.reading import read_list
from gateway.mcp.view.listing import FRESH_S, Kind, Listing, declares
from gateway.mcp.wire.errors import MAX_REASON, METHOD_NOT_FOUND, PeerClosed, RpcError, clipped, unavailable
from gateway.mcp.wire.tasks import Tasks

if TYPE_CHECKING:
    from gateway.mcp.call.caller import Caller

LIST_TIMEOUT_S: Final = 30.0
_T = TypeVar("_T")


class Connections(Protocol):
    """The part of a backend that its lists need."""

    name: str
    call_timeout_s: float
    tasks: Tasks

    async def peer(self, caller: Caller | None) -> Peer:
        """The connection to ask. Raises RpcError."""
        ...

    def ready(self, caller: Caller) -> Peer | None:
        """The caller's connection, if it is open."""
        ...

    def is_shared(self, caller: Caller) -> bool:
        """Whether the caller's connection is a shared one."""
        ...

    async def outcome(self, task: asyncio.Task[_T]) -> _T:
        """The result of a shared task. Raises RpcError."""
        ...


class BackendCatalog:
    """The lists of one backend."""

    def __init__(self, backend: Connections) -> None:
        self.lists: dict[Kind, Listing] = {}
        self.on_lists: Callable[[Kind, bool], None] = lambda _kind, _changed: None
        """Called each time a list was read, with whether it changed."""
        self.on_own_list: Callable[[Kind, Listing], None] = lambda _kind, _listing: None
        """Called when a list was read from a session's own connection."""
        self._backend = backend
        self._reading: dict[Kind, asyncio.Task[Listing]] = {}
        self._source: Peer | None = None
        self._changes = Counter[Kind]()
        """How often a connection reported that its list had changed."""
        self._failed: dict[Kind, tuple[Peer, str]] = {}
        """Why a list could not be read, and from which connection."""
        self._own: weakref.WeakKeyDictionary[Peer, dict[Kind, Listing]] = weakref.WeakKeyDictionary()

    def schema(self, tool: str) -> Any:
        """The input schema of a tool, as last listed; None when unknown."""
        listing = self.lists.get(Kind.TOOLS)
        item = listing.by_key(Kind.TOOLS, tool) if listing is not None else None
        return item.get("inputSchema") if item is not None else None

    @property
    def trouble(self) -> str:
        """The lists that the open connection does not give, and why; empty where all that were asked for came."""
        failed: dict[str, list[str]] = {}
        for kind, (peer, why) in self._failed.items():
            if not peer.closed:
                failed.setdefault(why, []).append(kind.words)
        return " ".join(f"its {' and '.join(kinds)} could not be listed: {why}" for why, kinds in failed.items())

    def stale(self, kinds: tuple[Kind, ...], peer: Peer) -> None:
        """A connection reported that lists changed."""
        self._changes.update(kinds)
        for lists in (self.lists, self._own.get(peer, {})):
            for kind in kinds:
                if (listing := lists.get(kind)) is not None:
                    listing.read = 0.0
                    listing.watched = False

    def _other(self, caller: Caller | None) -> Peer | None:
        """The caller's open connection, unless the common lists were read from it."""
        peer = self._backend.ready(caller) if caller is not None else None
        if caller is None or peer is None or peer is self._source:
            return None
        if (self._source is None or self._source.closed) and self._backend.is_shared(caller):
            return None  # the connection that they were read from is gone, and this one takes its place
        return peer

    def known(self, kind: Kind, caller: Caller | None) -> Listing | None:
        """The list as last read: the caller's own process may list other things than the common one."""
        peer = self._other(caller)
        own = self._own.get(peer, {}).get(kind) if peer is not None else None
        return own or self.lists.get(kind)

    def has(self, kind: Kind, caller: Caller | None, key: str) -> bool:
        """Whether the list as last read has an item of that name."""
        listing = self.known(kind, caller)
        return listing is not None and listing.has(kind, key)

    async def look_for(self, kind: Kind, caller: Caller, key: str) -> bool:
        """The same, after reading the list again, unless it was read just now. Raises RpcError."""
        listing = self.known(kind, caller)
        if listing is not None and time.monotonic() - listing.read >= FRESH_S:
            listing.read, listing.watched = 0.0, False
        return (await self.listing(kind, caller)).has(kind, key)

    async def listing(self, kind: Kind, caller: Caller | None = None, *, anew: bool = False) -> Listing:
        """The list, read again when it may have changed; `anew`: do not reuse a read that is already in flight.
        Raises RpcError."""
        if (peer := self._other(caller)) is not None:
            return await self._own_listing(peer, kind)
        known = self.lists.get(kind)
        if known is not None and known.fresh:
            return known
        task = self._reading.get(kind)
        if task is not None and anew:
            await self._backend.outcome(task)
            return await self.listing(kind, caller)
        if task is None:
            task = self._reading[kind] = self._backend.tasks.begin(self._read(kind))
            task.add_done_callback(lambda _: self._reading.pop(kind, None))
        return await self._backend.outcome(task)

    async def _own_listing(self, peer: Peer, kind: Kind) -> Listing:
        own = self._own.setdefault(peer, {})
        known = own.get(kind)
        if known is None or not known.fresh:
            known = own[kind] = await self._read_from(peer, kind)
            self.on_own_list(kind, known)
        return known

    async def _read(self, kind: Kind) -> Listing:
        peer = await self._backend.peer(None)
        try:
            listing = await self._read_from(peer, kind)
        except RpcError as error:
            self._failed[kind] = peer, clipped(error.reason, MAX_REASON)
            raise
        self._failed.pop(kind, None)
        before, self.lists[kind] = self.lists.get(kind), listing
        self._source = peer
        self.on_lists(kind, before is None or before.items != listing.items)
        return listing

    async def _read_from(self, peer: Peer, kind: Kind) -> Listing:
        if kind.capability not in peer.about.capabilities:
            return Listing(read=time.monotonic(), watched=True)

        async def request(method: str, params: dict[str, Any]) -> dict[str, Any]:
            if peer.modern:
                params = {**params, "_meta": envelope({}, US)}
            return await ask(
                peer, self._backend.name, method, params, min(LIST_TIMEOUT_S, self._backend.call_timeout_s)
            )

        watched, changes = declares(peer.about.capabilities, kind.capability, "listChanged"), self._changes[kind]
        try:
            listing = await read_list(kind, request, watched=watched)
            if self._changes[kind] != changes:  # it changed right after the answer, or between two pages
                listing.read, listing.watched = 0.0, False
            return listing
        except PeerClosed as error:
            raise unavailable(self._backend.name, str(error)) from error
        except RpcError as error:
            if error.code == METHOD_NOT_FOUND:
                return Listing(read=time.monotonic(), watched=True)
            raise

    def lost(self, peer: Peer) -> None:
        """A connection ended: it no longer reports list changes, and the next process may list other things."""
        for listing in self.lists.values():
            listing.watched = False
            if peer is self._source:
                listing.read = 0.0

    @property
    def orphaned(self) -> bool:
        """Whether the connection that the common lists were read from is gone."""
        return self._source is not None and bool(self._source.closed)

    async def read_again(self) -> None:
        """There is a new shared connection: read its lists, although no client asked."""
        for kind in list(self.lists):
            with contextlib.suppress(RpcError):
                await self.listing(kind)

    def close(self) -> None:
        """Cancel all reads."""
        for task in self._reading.values():
            task.cancel()
