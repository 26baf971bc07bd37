"""Servers that connected AI clients still start themselves, outside of the isolation: `ps` and `up` say so.

It is a look at the user's own client files on the way to something else, so it reads only those that name Stockade and never
fails: a file that cannot be read or understood says nothing here (`connect` and `import` report it).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOST: Final = 5
"""Names of one client that are listed."""
MAX_FILE: Final = 4 << 20
"""Bytes of a client's file that is looked at; Claude Code's has its history in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """A client that is connected to Stockade, and what it starts besides."""

    client: str
    """What `stockade connect` calls it."""
    title: str
    file: str
    servers: list[str]

    def sentence(self, served: Collection[str]) -> str:
        """The warning, with the command that ends it. `served`: the names of the gateway's servers."""
        shown = ", ".join(self.servers[:MOST])
        more = f" and {len(self.servers) - MOST} more" if len(self.servers) > MOST else ""
        replace = f"stockade connect {self.client} --replace"
        first = "" if any(name in served for name in self.servers) else f"stockade import {self.client}, then "
        return f"{self.title} also starts {shown}{more} itself, outside Stockade. To end that: {first}{replace}"


def started_outside() -> list[Outside]:
    """Of each client whose own file names Stockade, the other servers that it starts. Never raises."""
    from gateway.connect.clients import ROWS

    found = []
    for row in ROWS:
        try:
            path = row.file()
            if row.writable and (names := _names(row.name, path)):
                found.append(Outside(client=row.name, title=row.title, file=str(path), servers=names))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue  # not a file that says anything
    return found


def _names(client: str, path: Path) -> list[str]:
    if not path.is_file() or path.stat().st_size > MAX_FILE or b"stockade" not in path.read_bytes():
        return []
    from gateway.connect.connect import is_connected, row_named, started_in

    row = row_named(client)
    return list(started_in(row, path)) if is_connected(row, path) else []
