"""What a backend offers: its four lists, and how they are read from it whole."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

_OURS: Final = ("nextCursor", "resultType", "ttlMs", "cacheScope")
_MAX_PAGES: Final = 100
_MAX_ITEMS: Final = 10_000
_MAX_KEY: Final = 8192
_DEPTH_TO_SPARE: Final = 100
"""Levels that an item may be wrapped in before it is written."""
FRESH_S: Final = 5.0
"""How long a list is taken as it was read, where the backend does not tell of changes."""


class Kind(StrEnum):
    """A list that a backend keeps."""

    TOOLS = "tools"
    PROMPTS = "prompts"
    RESOURCES = "resources"
    TEMPLATES = "resourceTemplates"

    @property
    def method(self) -> str:
        """The method that lists it."""
        return "resources/templates/list" if self is Kind.TEMPLATES else f"{self.value}/list"

    @property
    def capability(self) -> str:
        """The server capability it belongs to."""
        return "resources" if self is Kind.TEMPLATES else self.value

    @property
    def key(self) -> str:
        """The member of an item that tells it from the others."""
        match self:
            case Kind.TOOLS | Kind.PROMPTS:
                return "name"
            case Kind.RESOURCES:
                return "uri"
            case Kind.TEMPLATES:
                return "uriTemplate"


KIND_OF_METHOD: Final = {kind.method: kind for kind in Kind}
CHANGED: Final = {
    "notifications/tools/list_changed": (Kind.TOOLS,),
    "notifications/prompts/list_changed": (Kind.PROMPTS,),
    "notifications/resources/list_changed": (Kind.RESOURCES, Kind.TEMPLATES),
}
LISTEN_FLAG: Final = {
    "notifications/tools/list_changed": "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
}


@dataclass(eq=False, slots=True)
class Listing:
    """A list as it was last read."""

    items: list[dict[str, Any]] = field(default_factory=list)
    read: float = 0.0
    """Monotonic seconds; 0 for one that comes from an earlier life."""
    watched: bool = False
    """The backend tells of changes, so it stays fresh until it does."""
    ttl_ms: int | None = None
    scope: str | None = None
    keys: frozenset[str] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """What else the answer said (`_meta`, fields nobody knows): it passes where the backend stands alone."""

    @property
    def fresh(self) -> bool:
        """Whether it need not be read again."""
        if self.read == 0.0:
            return False
        return self.watched or time.monotonic() - self.read < max(FRESH_S, (self.ttl_ms or 0) / 1000)

    def has(self, kind: Kind, key: str) -> bool:
        """Whether an item with this name or URI is in it."""
        if self.keys is None:
            self.keys = frozenset(item[kind.key] for item in self.items)
        return key in self.keys

    def by_key(self, kind: Kind, key: str) -> dict[str, Any] | None:
        """The item with this name or URI."""
        return next((item for item in self.items if item.get(kind.key) == key), None)


Ask = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Asks a backend (method, params) and returns the result; raises RpcError."""


async def read_list(kind: Kind, ask: Ask, *, watched: bool) -> Listing:
    """All pages of a list. A paginator that turns in circles, or never ends, is cut off. Raises RpcError."""
    listing = Listing(read=time.monotonic(), watched=watched)
    seen: set[str] = set()
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        result = await ask(kind.method, {} if cursor is None else {"cursor": cursor})
        items = result.get(kind.value)
        listing.items += [item for item in items if _is_item(kind, item)] if isinstance(items, list) else []
        listing.extra |= {key: value for key, value in result.items() if key not in (kind.value, *_OURS)}
        ttl, scope = result.get("ttlMs"), result.get("cacheScope")
        listing.ttl_ms = ttl if type(ttl) is int else listing.ttl_ms
        listing.scope = scope if isinstance(scope, str) else listing.scope
        cursor = result.get("nextCursor")
        if not isinstance(cursor, str) or cursor in seen or len(listing.items) >= _MAX_ITEMS:
            break
        seen.add(cursor)
    return listing


def _is_item(kind: Kind, item: Any) -> bool:
    """Whether the item can be shown. One that no client could read would take the other backends' items with it."""
    if not isinstance(item, dict) or not isinstance(key := item.get(kind.key), str) or len(key) > _MAX_KEY:
        return False
    try:
        key.encode()  # a lone surrogate is legal in JSON, as an escape
        json.dumps(_wrapped(item), allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True


def _wrapped(value: Any) -> Any:
    for _ in range(_DEPTH_TO_SPARE):
        value = [value]
    return value


def declares(capabilities: Mapping[str, Any], name: str, flag: str) -> bool:
    """Whether a capability carries a flag, such as `listChanged`."""
    capability = capabilities.get(name)
    return isinstance(capability, dict) and capability.get(flag) is True
