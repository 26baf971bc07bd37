"""Who has a name or URI on `/mcp`. It stays theirs for as long as they stand in the configuration.

Among what backends say when their lists are read for the first time, the order of the configuration decides, whoever
answered first. What a backend comes to list later it only gets if nobody has it: a server that was taken over cannot
take over what its neighbours serve. What was contested is kept over restarts; the rest is claimed anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.mcp.view.listing import Kind

_MAX_CLAIMS: Final = 100_000

Key = tuple[Kind, str]


@dataclass(slots=True)
class Claim:
    """Whose a name is."""

    owner: str
    late: bool = False
    """It was not in the first list that the owner gave."""


class Claims:
    """The owners."""

    def __init__(self, contested: Mapping[str, Mapping[str, str]] | None = None) -> None:
        """`contested` is what an earlier life's `contested` was."""
        self._claims: dict[Key, Claim] = {}
        self._contested: dict[Key, str] = {}
        self._read: set[tuple[Kind, str]] = set()
        self._order: list[str] = []
        for kind in Kind:
            found = (contested or {}).get(kind.value)
            for key, owner in found.items() if isinstance(found, dict) else ():
                if isinstance(owner, str):
                    self._claims[kind, key] = Claim(owner)
                    self._contested[kind, key] = owner

    def take(self, kind: Kind, key: str, backend: str) -> str:
        """Claim it for the backend; whose it is."""
        late = (kind, backend) in self._read
        claim = self._claims.setdefault((kind, key), Claim(backend, late))
        if claim.owner != backend:
            if not late and (kind, key) not in self._contested and self._rank(backend) < self._rank(claim.owner):
                claim.owner = backend
            self._contested[kind, key] = claim.owner
        return claim.owner

    def read(self, kind: Kind, backend: str) -> None:
        """All of the backend's list has been claimed."""
        self._read.add((kind, backend))

    def _rank(self, backend: str) -> int:
        return self._order.index(backend) if backend in self._order else len(self._order)

    def owner(self, kind: Kind, key: str) -> str | None:
        """Whose it is, if anybody's."""
        claim = self._claims.get((kind, key))
        return claim.owner if claim is not None else None

    def in_order(self, kind: Kind, keys: Collection[str]) -> list[str]:
        """The keys: what was listed from the start in the order of the configuration, then what came later."""
        claims = [(key, claim) for key in keys if (claim := self._claims.get((kind, key))) is not None]
        return [key for key, _ in sorted(claims, key=lambda one: (one[1].late, self._rank(one[1].owner)))]

    def retain(self, backends: Sequence[str]) -> None:
        """The backends in their order; what others claimed is free again."""
        self._order = list(backends)
        self._claims = {key: claim for key, claim in self._claims.items() if claim.owner in backends}
        self._contested = {key: owner for key, owner in self._contested.items() if owner in backends}
        self._read = {(kind, backend) for kind, backend in self._read if backend in backends}

    def prune(self, live: Iterable[Key]) -> None:
        """A backend that lists other things each time must not fill the memory: what nobody lists any more goes."""
        if len(self._claims) > _MAX_CLAIMS:
            known = set(live)
            self._claims = {key: claim for key, claim in self._claims.items() if key in known}
            self._contested = {key: owner for key, owner in self._contested.items() if key in known}

    @property
    def contested(self) -> dict[str, dict[str, str]]:
        """By list, the owner of each name that more than one backend wanted."""
        found: dict[str, dict[str, str]] = {}
        for (kind, key), owner in self._contested.items():
            found.setdefault(kind.value, {})[key] = owner
        return found
