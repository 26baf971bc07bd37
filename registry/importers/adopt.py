"""Reads an AI client's own file (`mcpServers`, or VS Code's `servers`) as a Stockade configuration.

Such a file says nothing about networks, so everything in it is isolated and reaches nothing until someone adds a
`network` to it. A server that cannot run isolated is left out with a warning, and the rest is served. Our own sections may
stand beside its servers (`gateway`, to take another port); it stays a client's file until it says `version`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry.file.document import Document, Span
from registry.importers.entry import convert
from registry.model.errors import KeyPath, Problem
from registry.model.fields import NAME, valid_name

SECTIONS: tuple[KeyPath, ...] = (
    ("mcpServers",),
    ("servers",),
    ("mcp", "servers"),
    ("mcp_servers",),
    ("context_servers",),
    ("amp.mcpServers",),
    ("mcp",),
)
OURS = frozenset({"project", "gateway", "egress", "extra_ca", "clients"})
"""Sections of ours that a client's file may have."""


def is_foreign(document: Document) -> bool:
    """Whether the file is a client's: JSON, servers in it, and no `version`, which only we write."""
    return document.is_json and "version" not in document.value and section(document.value) is not None


def section(value: Mapping[str, Any]) -> KeyPath | None:
    """Where in the file its servers are."""
    for path in SECTIONS:
        here: Any = value
        for part in path:
            here = here.get(part) if isinstance(here, Mapping) else None
        if isinstance(here, Mapping):
            return path
    return None


def adopt(document: Document) -> tuple[Document, list[Problem]]:
    """The file as a Stockade configuration, and remarks about the conversion."""
    path = section(document.value)
    if path is None or not is_foreign(document):
        return document, []
    here: Any = document.value
    for part in path:
        here = here[part]
    return adopt_servers(document, here, path)


def adopt_servers(
    document: Document, servers: Mapping[str, Any], path: KeyPath, *, trusted: bool = True
) -> tuple[Document, list[Problem]]:
    """The servers at that place as ours. `trusted`: the user runs this very file, so keys of ours in it hold."""
    variables = folder_variables(Path(document.file))
    entries: dict[str, Any] = {}
    notes: list[Problem] = []
    spans = dict(document.spans)
    for written, raw in servers.items():
        name = free_name(written, entries)
        here = (*path, written)
        if name != written:
            message = f"{written!r} is served as {name!r}, since a name has only lower-case letters, digits and -"
            notes.append(document.problem(here, message, at_key=True))
        move(document.spans, here, ("mcpServers", name), spans)
        if not isinstance(raw, Mapping):
            entries[name] = raw
            continue
        imported = convert(raw, variables=variables, trusted=trusted)
        entries[name] = imported.entry
        notes += [document.problem((*here, *note.path), note.message, note.hint) for note in imported.notes]
    ours = {key: document.value[key] for key in document.value if key in OURS}
    value = {"version": 1, **ours, "mcpServers": entries}
    return dataclasses.replace(document, value=value, spans=spans), notes


def free_name(written: str, taken: Mapping[str, Any]) -> str:
    """A valid name near the written one that no other server has."""
    base = written if NAME.fullmatch(written) and "--" not in written else valid_name(written)
    name, number = base, 2
    while name in taken:
        name = f"{base[:28]}-{number}"
        number += 1
    return name


def names_of(servers: Mapping[str, Any]) -> dict[str, str]:
    """The name that each server is served as, and the one that the file has."""
    names: dict[str, str] = {}
    for written in servers:
        names[free_name(written, names)] = written
    return names


def move(spans: Mapping[KeyPath, Span], old: KeyPath, new: KeyPath, into: dict[KeyPath, Span]) -> None:
    """Records the positions below `old` under `new` too."""
    for path, span in spans.items():
        if path[: len(old)] == old:
            into[(*new, *path[len(old) :])] = span


def folder_variables(path: Path) -> dict[str, str]:
    """What editors mean by their variables for folders, for a file in this place."""
    folder = path.absolute().parent
    root = folder.parent if folder.name in (".vscode", ".cursor", ".roo", ".junie", ".kiro") else folder
    home = str(Path.home())
    return {
        "workspaceFolder": str(root),
        "workspaceRoot": str(root),
        "userHome": home,
        "/": "/",
        "pathSeparator": "/",
    }
