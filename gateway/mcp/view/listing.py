"""What a backend offers: its four lists, what was wrong with them, and what its URI templates can make."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

MAX_NAMED: Final = 10
"""Flawed items of a list that are named in messages; all are counted."""
FRESH_S: Final = 5.0
"""How long a list counts as fresh, if the backend does not report changes."""


class Kind(StrEnum):
    """One of the lists that a backend has."""

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
    def words(self) -> str:
        """The word for its items in a sentence."""
        return "resource templates" if self is Kind.TEMPLATES else self.value

    @property
    def key(self) -> str:
        """The member that identifies an item."""
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


@dataclass(slots=True)
class Flaws:
    """What was wrong with the items of a list."""

    left_out: int = 0
    changed: int = 0
    named: list[str] = field(default_factory=list)
    """`NAME (why)` of items left out, up to `MAX_NAMED`."""
    _changed: list[str] = field(default_factory=list)

    def leave_out(self, name: str, why: str, count: int = 1) -> None:
        """Items that are not shown."""
        self.left_out += count
        if len(self.named) < MAX_NAMED:
            self.named.append(f"{name} ({why})")

    def change(self, name: str, members: list[str]) -> None:
        """Note an item that is shown without the parts that clients would refuse."""
        self.changed += 1
        if len(self._changed) < MAX_NAMED:
            self._changed.append(f"{name} ({', '.join(members)})")

    def missing(self, kind: Kind) -> str:
        """What is left out, in a sentence."""
        return f"{self.left_out} of its {kind.words} cannot be shown and are left out: {_some(self.named, self.left_out)}"

    def reshaped(self, kind: Kind) -> str:
        """What is shown in another shape, in a sentence."""
        which = _some(self._changed, self.changed)
        return f"{self.changed} of its {kind.words} are shown without what clients refuse: {which}"


def _some(names: list[str], count: int) -> str:
    return "; ".join(names) + ("; …" if count > len(names) else "")


@dataclass(eq=False, slots=True)
class Listing:
    """A list as it was last read."""

    items: list[dict[str, Any]] = field(default_factory=list)
    read: float = 0.0
    """Monotonic seconds; 0 for a list from an earlier run."""
    watched: bool = False
    """The backend reports changes, so the list stays fresh until then."""
    ttl_ms: int | None = None
    scope: str | None = None
    keys: frozenset[str] | None = None
    size: int = 0
    """Bytes of the items."""
    flaws: Flaws = field(default_factory=Flaws)
    extra: dict[str, Any] = field(default_factory=dict)
    """The other members of the answer (`_meta`, unknown fields): passed on where the route has one backend."""

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


def declares(capabilities: Mapping[str, Any], name: str, flag: str) -> bool:
    """Whether a capability carries a flag, such as `listChanged`."""
    capability = capabilities.get(name)
    return isinstance(capability, dict) and capability.get(flag) is True
