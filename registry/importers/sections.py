"""Where in an AI client's file its servers are. Pure.

A file may have several such sections (its own, and one that it keeps from another client or an older version): all are read,
and an empty one hides none of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from registry.model.errors import KeyPath

SECTIONS: tuple[KeyPath, ...] = (
    ("mcpServers",),
    ("servers",),
    ("mcp", "servers"),
    ("mcp_servers",),
    ("context_servers",),
    ("amp.mcpServers",),
    ("mcp",),
    ("extensions",),
)
ALSO_SETTINGS = frozenset({("mcp",), ("extensions",)})
"""Sections that are something else in other clients' files; there, only what says how it is run is a server."""
HOW = frozenset({"command", "cmd", "url", "uri", "serverUrl", "httpUrl"})


@dataclass(frozen=True, slots=True)
class Written:
    """One server as a file has it."""

    path: KeyPath
    """Its place in the file."""
    name: str
    raw: Any
    """Its entry, unchecked."""


def written(value: Any, *, lists: bool = False) -> list[Written]:
    """Every server of the file, in order; with `lists`, also of sections that are lists of servers with a `name`."""
    return [one for path in SECTIONS for one in servers_at(value, path, lists=lists)]


def section(value: Mapping[str, Any]) -> KeyPath | None:
    """The section that a new server goes to: the first with servers in it, else the first that there is."""
    there = [path for path in SECTIONS if is_section(value, path)]
    return next((path for path in there if at(value, path)), there[0] if there else None)


def at(value: Any, path: KeyPath) -> Any:
    """What is at a path; None if nothing is."""
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def is_section(value: Any, path: KeyPath) -> bool:
    found = at(value, path)
    if not isinstance(found, Mapping):
        return False
    return path not in ALSO_SETTINGS or (path == ("mcp",) and not found) or any(map(is_server, found.values()))


def is_server(raw: Any) -> bool:
    return isinstance(raw, Mapping) and bool(HOW & raw.keys())


def servers_at(value: Any, path: KeyPath, *, lists: bool) -> Iterator[Written]:
    found = at(value, path)
    if isinstance(found, Mapping) and is_section(value, path):
        for name, raw in found.items():
            if path not in ALSO_SETTINGS or is_server(raw):
                yield Written((*path, name), str(name), raw)
    elif isinstance(found, list) and lists:
        for index, raw in enumerate(found):
            if is_server(raw):
                yield Written((*path, index), str(raw.get("name") or f"server-{index + 1}"), raw)
