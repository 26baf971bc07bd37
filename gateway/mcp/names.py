"""Names on the aggregate endpoint: `SERVER__TOOL`, at most 64 characters, and back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

MAX_NAME: Final = 64
_DIGEST: Final = 8


def exposed_name(prefix: str, separator: str, name: str) -> str:
    """The name a client sees; a longer one than 64 characters is cut and ends in a digest of the whole."""
    full = f"{prefix}{separator}{name}" if prefix else name
    if len(full) <= MAX_NAME:
        return full
    digest = hashlib.sha256(full.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    return f"{full[: MAX_NAME - _DIGEST - 1]}_{digest}"


class NameTable:
    """Which backend owns which exposed name, in the order in which the backends stand in the configuration."""

    def __init__(self, separator: str) -> None:
        self._separator = separator
        self._owners: dict[str, tuple[str, str]] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._bare: dict[str, list[tuple[str, str]]] = {}
        self.conflicts: list[tuple[str, str, str]] = []
        """(backend, its name, the name it got instead) where two backends offered one name."""

    def add(self, backend: str, prefix: str, names: Iterable[str]) -> None:
        """Give each of the backend's names an exposed one; a taken one is prefixed with the backend's name."""
        for name in names:
            wanted = exposed_name(prefix, self._separator, name)
            if self._owners.get(wanted, (backend, name)) != (backend, name):
                instead = exposed_name(backend, self._separator, name)
                self.conflicts.append((backend, name, instead))
                wanted = instead
            if self._owners.setdefault(wanted, (backend, name)) == (backend, name):
                self._names[backend, name] = wanted
                self._bare.setdefault(name, []).append((backend, name))

    def exposed(self, backend: str, name: str) -> str | None:
        """The exposed name, or None where it could not get one."""
        return self._names.get((backend, name))

    def owner(self, exposed: str) -> tuple[str, str] | None:
        """(backend, its own name). An unprefixed name counts when exactly one backend has it (MCP Apps call so)."""
        found = self._owners.get(exposed)
        if found is None:
            bare = self._bare.get(exposed, [])
            return bare[0] if len(bare) == 1 else None
        return found
