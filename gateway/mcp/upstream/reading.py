"""Read a backend's list: all of its pages, within bounds, item by item."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from gateway.mcp.view.items import Sieve, size_of
from gateway.mcp.view.listing import Kind, Listing
from gateway.mcp.wire.incoming import without_ours

_OURS: Final = ("nextCursor", "resultType", "ttlMs", "cacheScope")
_MAX_PAGES: Final = 100
_MAX_CURSOR: Final = 8192
_MAX_EXTRA: Final = 64 * 1024
"""Bytes of an answer without its items."""
_MAX_TTL_MS: Final = 365 * 24 * 3600 * 1000
_AT_ONCE: Final = 100
"""Items that are checked before other tasks get their turn."""

Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Asks a backend (method, params) and returns the result; raises RpcError."""


async def read_list(kind: Kind, ask: Ask, *, watched: bool) -> Listing:
    """All pages of a list. A paginator that turns in circles, or never ends, is cut off. Raises RpcError."""
    listing, sieve = Listing(read=time.monotonic(), watched=watched), Sieve(kind)
    listing.flaws = sieve.flaws
    seen: set[str] = set()
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        result = await ask(kind.method, {} if cursor is None else {"cursor": cursor})
        await _sift(sieve, result.get(kind.value))
        _note(listing, {key: value for key, value in result.items() if key != kind.value})
        cursor = result.get("nextCursor")
        if not isinstance(cursor, str) or cursor in seen or len(cursor) > _MAX_CURSOR or sieve.full:
            break
        seen.add(cursor)
    listing.items, listing.size = sieve.items, sieve.size
    return listing


async def _sift(sieve: Sieve, items: Any) -> None:
    if not isinstance(items, list):
        return
    for number, item in enumerate(items):
        if sieve.full:
            sieve.refuse(len(items) - number)
            return
        sieve.take(item)
        if number % _AT_ONCE == _AT_ONCE - 1:
            await asyncio.sleep(0)


def _note(listing: Listing, said: dict[str, Any]) -> None:
    """Take the members of an answer besides its items."""
    ttl, scope = said.get("ttlMs"), said.get("cacheScope")
    listing.ttl_ms = min(ttl, _MAX_TTL_MS) if type(ttl) is int and ttl >= 0 else listing.ttl_ms
    listing.scope = scope if scope in ("public", "private") else listing.scope
    extra = {**listing.extra, **{key: value for key, value in said.items() if key not in _OURS}}
    meta = extra.pop("_meta", None)
    if isinstance(meta, dict):
        extra["_meta"] = without_ours(meta)
    if (size := size_of(extra)) is not None and size <= _MAX_EXTRA:
        listing.extra = extra


def cached_list(kind: Kind, items: list[Any]) -> Listing:
    """A list from an earlier run; it is read again when the backend runs."""
    sieve = Sieve(kind)
    for number, item in enumerate(items):
        if sieve.full:
            sieve.refuse(len(items) - number)
            break
        sieve.take(item)
    return Listing(items=sieve.items, size=sieve.size, flaws=sieve.flaws)
