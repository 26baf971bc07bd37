"""Which backend owns a name or URI on `/mcp`. It stays the owner for as long as it is in the configuration.

When lists are read for the first time, the order of the configuration decides, not which backend answered first. A name
that a backend lists later becomes its own only if it has no owner: a server that was taken over cannot take over what other
backends serve. Contested names survive restarts; the others are claimed again.
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
    """The owner of a name."""

    owner: str
    late: bool = False
    """The owner's first list did not have it."""


class Claims:
    """The owners of all names."""

    def __init__(self, contested: Mapping[str, Mapping[str, str]] | None = None) -> None:
        """`contested` is the attribute of that name at the end of an earlier run."""
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
        """Claim a name for the backend; returns its owner."""
        late = (kind, backend) in self._read
        claim = self._claims.setdefault((kind, key), Claim(backend, late))
        if claim.owner != backend:
            if not late and (kind, key) not in self._contested and self._rank(backend) < self._rank(claim.owner):
                claim.owner = backend
            self._contested[kind, key] = claim.owner
        return claim.owner

    def read(self, kind: Kind, backend: str) -> None:
        """The whole first list of the backend was claimed."""
        self._read.add((kind, backend))

    def _rank(self, backend: str) -> int:
        return self._order.index(backend) if backend in self._order else len(self._order)

    def owner(self, kind: Kind, key: str) -> str | None:
        """The owner of a name, if it has one."""
        claim = self._claims.get((kind, key))
        return claim.owner if claim is not None else None

    def in_order(self, kind: Kind, keys: Collection[str]) -> list[str]:
        """The keys: first those of first lists, in the order of the configuration, then those that came later."""
        claims = [(key, claim) for key in keys if (claim := self._claims.get((kind, key))) is not None]
        return [key for key, _ in sorted(claims, key=lambda one: (one[1].late, self._rank(one[1].owner)))]

    def retain(self, backends: Sequence[str]) -> None:
        """Take the backends of the configuration in their order; names of other backends are free again."""
        self._order = list(backends)
        self._claims = {key: claim for key, claim in self._claims.items() if claim.owner in backends}
        self._contested = {key: owner for key, owner in self._contested.items() if owner in backends}
        self._read = {(kind, backend) for kind, backend in self._read if backend in backends}

    def prune(self, live: Iterable[Key]) -> None:
        """A backend that lists other things each time must not fill the memory: drop names that no list has any more."""
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
