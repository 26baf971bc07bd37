"""Names on the aggregate endpoint: `SERVER__TOOL`, short enough for model APIs, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

CLIENTS_PREFIX: Final = "mcp__stockade__"
"""What Claude Code and other clients put before a tool's name: `stockade connect` calls our entry `stockade`."""
MAX_NAME: Final = 64 - len(CLIENTS_PREFIX)
"""Characters of a name. Model APIs take 64 and refuse all tools of a request with a longer one."""
_DIGEST: Final = 8


def exposed_name(prefix: str, separator: str, name: str) -> str:
    """The name a client sees; one longer than `MAX_NAME` is cut and ends in a digest of the whole."""
    full = f"{prefix}{separator}{name}" if prefix else name
    if len(full) <= MAX_NAME:
        return full
    digest = hashlib.sha256(full.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    return f"{full[: MAX_NAME - _DIGEST - 1]}_{digest}"


def reserved_starts(prefixes: Mapping[str, str], separator: str) -> dict[str, tuple[str, ...]]:
    """For each backend (with its prefix): the prefixes of other backends that are longer than its own."""
    starts = {name: {f"{name}{separator}", f"{prefix}{separator}"} for name, prefix in prefixes.items()}
    found = {}
    for name, prefix in prefixes.items():
        others = {start for other in starts if other != name for start in starts[other]} - starts[name]
        own = len(prefix + separator) if prefix else 0
        found[name] = tuple(sorted(start for start in others if len(start) > max(own, len(separator))))
    return found


class NameTable:
    """Which backend owns which exposed name."""

    def __init__(
        self,
        separator: str,
        take: Callable[[str, str], str] = lambda _wanted, backend: backend,
        reserved: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        """`take` claims a name for a backend and returns its owner; `reserved` has the prefixes of other backends."""
        self._separator = separator
        self._take = take
        self._reserved = reserved or {}
        self._owners: dict[str, tuple[str, str]] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._bare: dict[str, list[tuple[str, str]]] = {}
        self.conflicts: list[tuple[str, str, str]] = []
        """(backend, its name, the name it got instead) where two backends have one name."""

    def add(self, backend: str, prefix: str, names: Iterable[str]) -> None:
        """Give each of the backend's names an exposed one; a taken one is prefixed with the backend's name."""
        for name in names:
            wanted = exposed_name(prefix, self._separator, name)
            if not self._free(wanted, backend, name):
                instead = exposed_name(backend, self._separator, name)
                self.conflicts.append((backend, name, instead))
                wanted = instead
            if self._owners.setdefault(wanted, (backend, name)) == (backend, name):
                self._names[backend, name] = wanted
                self._bare.setdefault(name, []).append((backend, name))

    def _free(self, wanted: str, backend: str, name: str) -> bool:
        if self._owners.get(wanted, (backend, name)) != (backend, name):
            return False
        return not wanted.startswith(self._reserved.get(backend, ())) and self._take(wanted, backend) == backend

    def __iter__(self) -> Iterator[str]:
        return iter(self._owners)

    def exposed(self, backend: str, name: str) -> str | None:
        """The exposed name; None if it could not get one."""
        return self._names.get((backend, name))

    def owner(self, exposed: str) -> tuple[str, str] | None:
        """(backend, its own name). An unprefixed name counts when exactly one backend has it (MCP Apps call so)."""
        found = self._owners.get(exposed)
        if found is None:
            bare = self._bare.get(exposed, [])
            return bare[0] if len(bare) == 1 else None
        return found
