"""The lists and greetings that the gateway answers itself, from what the backends last sent.

On `/mcp` all visible backends are asked at once. A slow or dead one is left out after a short wait (or shown as last
known), and the answer names it in `_meta["stockade/unavailable"]`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from gateway.mcp.call.background import Background
from gateway.mcp.call.caller import Caller
from gateway.mcp.call.eras import result_to_legacy
from gateway.mcp.call.messages import LATEST_LEGACY, LEGACY_VERSIONS, META, MODERN, About
from gateway.mcp.call.task_table import EXTENSION
from gateway.mcp.route.pages import Pages
from gateway.mcp.upstream.backend import Backend
from gateway.mcp.upstream.builds import BeingBuilt
from gateway.mcp.upstream.handshake import US
from gateway.mcp.view.annotate import refused_lines
from gateway.mcp.view.listing import Kind, Listing
from gateway.mcp.view.views import View
from gateway.mcp.wire.errors import INVALID_PARAMS, RpcError, clipped, unavailable
from gateway.mcp.wire.tasks import Tasks
from registry.model.fields import Start

PATIENCE_S: Final = 1.5
"""How long `/mcp` waits for a backend before it answers with what was last known of it."""
FIRST_PATIENCE_S: Final = 5.0
"""The same for a backend that was never listed; after that it is left out, and clients are notified when it arrives."""
_LOOK_S: Final = 0.5
"""How often a request that waits for a server looks whether its image is being built."""
_BUILDING: Final = "its image is being built, which can take minutes; its lists are announced as soon as it is up"
UNAVAILABLE: Final = "stockade/unavailable"
_UNKNOWN: Final = {"name": "unknown", "version": "0"}
"""A server that does not say what it is: clients refuse a greeting without it."""
_AGGREGATE: Final[Mapping[str, Any]] = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": True},
    "resources": {"listChanged": True, "subscribe": True},
    "completions": {},
    "logging": {},
}

_MAX_WHY: Final = 300
"""Characters of the reason why a backend is missing: one backend's text in every client's lists."""
MAX_INSTRUCTIONS: Final = 16 * 1024
"""Characters of one backend's instructions on `/mcp`."""
_ALL_INSTRUCTIONS: Final = 128 * 1024
"""Characters of all instructions together; each backend has an equal share."""
_APPS: Final = "io.modelcontextprotocol/ui"


T = TypeVar("T")


class Lists:
    """Answers lists, `initialize` and `server/discover`."""

    def __init__(self, backends: Mapping[str, Backend], tasks: Tasks, background: Background | None = None) -> None:
        self.backends = backends
        self._background = background or Background()
        self.annotate = True
        self._tasks = tasks

    # lists

    async def listed(self, caller: Caller, kind: Kind, params: Mapping[str, Any]) -> dict[str, Any]:
        """One page of a list. Raises RpcError."""
        view = caller.view
        start = _offset(params.get("cursor"))
        if view.route:
            listing = await self._unless_building(view.route, self._one(caller, view.route, kind))
            missing = [] if listing is not None else [self._missing(view.route, kind, _BUILDING)]
        else:
            listing, missing = None, await self._refresh(caller, kind)
        shown = self._items(caller, kind)
        end = shown.end(start)
        result: dict[str, Any] = {kind.value: shown.items[start:end]}
        if end < len(shown.items):
            result["nextCursor"] = f"stockade-{end}"
        if listing is not None:
            result |= listing.extra if caller.modern else result_to_legacy(listing.extra)
        if missing:
            result["_meta"] = {UNAVAILABLE: missing}
        return self._cacheable(caller, result, listing)

    def _cacheable(self, caller: Caller, result: dict[str, Any], listing: Listing | None) -> dict[str, Any]:
        if not caller.modern:
            return result
        scope = listing.scope if listing is not None else None
        ttl_ms = listing.ttl_ms if listing is not None else None
        private = caller.view.restricted or scope is None
        return {
            "resultType": "complete",
            **result,
            "ttlMs": ttl_ms or 0,
            "cacheScope": "private" if private else scope,
        }

    async def _explained(self, name: str, work: Awaitable[T]) -> T:
        """What `work` returns. Its RpcError also says what the server was refused since its start."""
        try:
            return await work
        except BeingBuilt:
            raise
        except RpcError as error:
            text = "\n".join([error.message, *self._refused(name)])
            raise RpcError(error.code, text, error.data, kind=error.kind, reason=error.reason) from error

    async def _unless_building(self, name: str, work: Coroutine[Any, Any, T]) -> T | None:
        """What `work` returns; None once it would wait for the server's image. Raises RpcError."""
        if self.backends[name].peers():  # it runs
            return await self._explained(name, work)
        task = self._tasks.begin(self._explained(name, work))
        while not (await asyncio.wait({task}, timeout=_LOOK_S))[0]:
            backend = self.backends.get(name)
            if backend is None or backend.builds.under_way:  # it may have left the file meanwhile
                return None
        if task.cancelled():  # by `Tasks.close`
            raise unavailable(name, "the gateway is stopping")
        try:
            return await task
        except BeingBuilt:
            return None

    def _refused(self, name: str) -> list[str]:
        return refused_lines(self._background.denials(name)) if self.annotate else []

    async def _one(self, caller: Caller, name: str, kind: Kind) -> Listing:
        backend = self.backends[name]
        known = backend.catalog.lists.get(kind)
        if known is not None and _may_wait(backend):
            return known
        return await backend.catalog.listing(kind, caller)

    async def _refresh(self, caller: Caller, kind: Kind) -> list[dict[str, str]]:
        """Read again what may have changed, all at once; returns those left out or shown as last known."""
        wanted: dict[asyncio.Task[Listing], str] = {}
        missing: list[dict[str, str]] = []
        strangers = False
        for name in caller.view.backends:
            backend = self.backends[name]
            known = backend.catalog.known(kind, caller)
            if known is not None and (known.fresh or _may_wait(backend)):
                continue
            if backend.builds.under_way:
                missing.append(self._missing(name, kind, _BUILDING))
            else:
                wanted[self._tasks.begin(backend.catalog.listing(kind, caller))] = name
                strangers = strangers or known is None
        if not wanted:
            return missing
        done, late = await asyncio.wait(wanted, timeout=FIRST_PATIENCE_S if strangers else PATIENCE_S)
        missing += [self._missing(wanted[task], kind, "it did not answer in time") for task in late]
        for task in done:
            if task.cancelled():  # by `Tasks.close`
                missing.append(self._missing(wanted[task], kind, "the gateway is stopping"))
            elif (error := task.exception()) is not None:
                why = error.message if isinstance(error, RpcError) else type(error).__name__
                missing.append(self._missing(wanted[task], kind, why))
        return sorted(missing, key=lambda entry: entry["backend"])

    def _missing(self, name: str, kind: Kind, why: str) -> dict[str, str]:
        backend = self.backends.get(name)
        shown = "last known" if backend is not None and kind in backend.catalog.lists else "left out"
        return {"backend": name, "reason": " ".join([clipped(why, _MAX_WHY), *self._refused(name)]), "shown": shown}

    def _items(self, caller: Caller, kind: Kind) -> Pages:
        """All that the view shows; cached until the directory or one of the lists changes."""
        view = caller.view
        directory = view.directory
        listings = [self._known(name, kind, caller) for name in view.backends]
        known = view.lists.get(kind)
        if known is not None and known[0] is directory and known[1] == listings:
            pages: Pages = known[2]
            return pages
        parts: list[list[dict[str, Any]]] = []
        seen: set[str] = set()
        for name, listing in zip(view.backends, listings, strict=True):
            parts.append([])
            for item in listing.items if listing is not None else ():
                shown = self._shown(view, kind, name, item)
                if shown is not None and shown[kind.key] not in seen:
                    seen.add(shown[kind.key])
                    parts[-1].append(shown)
        pages = Pages(parts, sum(listing.size for listing in listings if listing is not None))
        view.lists[kind] = (directory, listings, pages)
        return pages

    def _known(self, name: str, kind: Kind, caller: Caller) -> Listing | None:
        backend = self.backends.get(name)  # the configuration may have changed since the request came
        return backend.catalog.known(kind, caller) if backend is not None else None

    def _shown(self, view: View, kind: Kind, backend: str, item: dict[str, Any]) -> dict[str, Any] | None:
        key = item[kind.key]
        if not view.shows(kind, backend, key, item):
            return None
        if kind in (Kind.RESOURCES, Kind.TEMPLATES):
            owner = view.directory.claimant(kind, key, view.backends)
            return item if owner in (None, backend) else None
        name = view.name_of(kind, backend, key)
        rules = view.directory.rules[backend]
        if kind is Kind.TOOLS and not rules.plain:
            return rules.shape.definition(item, name)
        return item if name == key else {**item, "name": name}

    def tools(self, caller: Caller) -> list[dict[str, Any]]:
        """All tools of the caller's view, as last known."""
        return self._items(caller, Kind.TOOLS).items

    # greetings

    async def initialized(self, view: View, requested: Any) -> dict[str, Any]:
        """The InitializeResult on this route. Raises RpcError."""
        version = requested if requested in LEGACY_VERSIONS else LATEST_LEGACY
        if not view.route:
            result = {"capabilities": dict(_AGGREGATE), "serverInfo": dict(US)}
            instructions = await self._instructions(view)
            return {"protocolVersion": version, **result, **instructions}
        about = await self._unless_building(view.route, self.backends[view.route].about(False))
        if about is None:
            return {"protocolVersion": version, **_unheard(view.route)}
        if not about.modern:
            return {"capabilities": {}, "serverInfo": dict(_UNKNOWN), **about.result, "protocolVersion": version}
        return {"protocolVersion": version, **_plain(about)}

    async def discovered(self, caller: Caller) -> dict[str, Any]:
        """The DiscoverResult on this route. Raises RpcError."""
        view = caller.view
        fixed = {"resultType": "complete", "supportedVersions": [MODERN]}
        private = {"ttlMs": 0, "cacheScope": "private"}
        if not view.route:
            meta = {"_meta": {META + "serverInfo": dict(US)}}
            instructions = await self._instructions(view)
            capabilities = {"capabilities": {**_AGGREGATE, **self._extensions(view)}}
            return {**fixed, **capabilities, **instructions, **private, **meta}
        backend = self.backends[view.route]
        about = await self._unless_building(view.route, self._about(caller, backend))
        if about is None:
            return {**fixed, "capabilities": _unheard(view.route)["capabilities"], **private}
        if about.modern:
            result = {**private, **about.result, "supportedVersions": [MODERN]}
            return {**result, "cacheScope": "private"} if view.restricted else result
        plain = _plain(about)
        info = plain.pop("serverInfo")
        return {**fixed, **plain, **private, "_meta": {META + "serverInfo": info}}

    async def _about(self, caller: Caller, backend: Backend) -> About:
        """What a server declares to modern clients."""
        if backend.unheard(modern=True) and not _may_wait(backend):
            await backend.peer(caller)
        return await backend.about(True)

    def _extensions(self, view: View) -> dict[str, Any]:
        """The extensions that work through `/mcp`: tasks always (a backend on a pipe may not have declared them yet)."""
        found: dict[str, Any] = {EXTENSION: {}}
        for name in view.backends:
            backend = self.backends.get(name)
            about = backend.abouts.get(True) if backend is not None else None
            offered = about.capabilities.get("extensions") if about is not None else None
            if isinstance(offered, dict) and _APPS in offered:
                found.setdefault(_APPS, offered[_APPS])
        return {"extensions": found}

    async def _instructions(self, view: View) -> dict[str, str]:
        """The instructions of all visible backends that answer soon, each under its name."""
        waiting = {
            self._tasks.begin(self.backends[name].about(False)): name
            for name in view.backends
            if not (
                self.backends[name].abouts or _may_wait(self.backends[name]) or self.backends[name].builds.under_way
            )
        }
        if waiting:
            await asyncio.wait(waiting, timeout=FIRST_PATIENCE_S)
        found: dict[str, str] = {}
        for name in view.backends:
            backend = self.backends.get(name)
            about = next(iter(backend.abouts.values()), None) if backend is not None else None
            if about is not None and about.instructions:
                found[name] = about.instructions
        share = min(MAX_INSTRUCTIONS, _ALL_INSTRUCTIONS // max(len(found), 1))
        parts = [f"# {name}\n{clipped(text, share)}" for name, text in found.items()]
        return {"instructions": "\n\n".join(parts)} if parts else {}


def _unheard(name: str) -> dict[str, Any]:
    """The greeting of a server that is still being built: what it may have, and that its lists change."""
    return {
        "capabilities": {key: {"listChanged": True} for key in ("tools", "prompts", "resources")},
        "serverInfo": {"name": name, "version": "0"},
    }


def _plain(about: About) -> dict[str, Any]:
    result: dict[str, Any] = {
        "capabilities": dict(about.capabilities),
        "serverInfo": dict(about.info or _UNKNOWN),
    }
    if about.instructions is not None:
        result["instructions"] = about.instructions
    return result


def _may_wait(backend: Backend) -> bool:
    """Whether to use what is known: a lazy backend that does not run is not started just to be listed."""
    return backend.server.start is Start.LAZY and not backend.peers()


def _offset(cursor: Any) -> int:
    if cursor is None:
        return 0
    if isinstance(cursor, str) and (number := cursor.removeprefix("stockade-")).isdigit() and len(number) < 9:
        return int(number)
    raise RpcError(INVALID_PARAMS, "Invalid cursor")
