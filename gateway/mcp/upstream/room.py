"""Which process ends when a client session needs one of its own and the limit is reached.

A process holds its client's state, so one client's session never ends for another client: the client that wants one more
gives up its own oldest idle one, or is refused. Where there are several clients, none may have all processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from gateway.mcp.call.caller import Caller
    from gateway.mcp.upstream.sharing import ConnectionKey, Line

_MAX_FAREWELLS: Final = 4096


@dataclass(frozen=True, slots=True)
class Owned:
    """A connection that belongs to one session."""

    owner: str
    principal: str
    used: float
    idle: bool


class Full(Exception):
    """Raised when none of the client's own processes can end for its new session."""


def to_end(owned: Sequence[Owned], principal: str, most: int, *, alone: bool) -> Owned | None:
    """The connection that ends for a new one of this principal; None where there is room. Raises Full."""
    mine = [one for one in owned if one.principal == principal]
    share = most if alone else max(1, most * 3 // 4)
    if len(owned) < most and len(mine) < share:
        return None
    idle = [one for one in mine if one.idle]
    if idle:
        return min(idle, key=lambda one: one.used)
    raise Full(
        f"{len(owned)} client sessions use it already, each with a process of its own ({len(mine)} of them this client's, "
        "none idle), and another client's is not ended for this one. Try again when a session has ended"
    )


@dataclass(frozen=True, slots=True)
class Farewell:
    """Why a session's own process ended before the session did."""

    why: str
    refuse: bool
    """Whether its next call is refused with this reason, since it may rely on lost state; else the result has it."""


class Owners:
    """The owners of one backend's connections that belong to one session each, and the farewells of those that ended."""

    def __init__(self) -> None:
        self._principals: dict[str, str] = {}
        self._farewells: dict[str, Farewell] = {}
        self.may_end: Callable[[str], bool] = lambda _owner: True
        """Whether a session has no call under way on any backend."""
        self.on_evicted: Callable[[str, str], None] = lambda _owner, _why: None
        """Called when a session lost its process to another session of the same client, with the reason."""

    def for_new(
        self,
        owner: str,
        caller: Caller,
        lines: Mapping[ConnectionKey, Line],
        opening: Iterable[ConnectionKey],
        most: int,
    ) -> str | None:
        """The owner whose connection ends for a new one of this owner; None when there is room. Raises Full."""
        principal = self._principals[owner] = caller.principal.key
        owned = [
            Owned(key.owner, self._principals.get(key.owner, ""), line.used, line.idle and self.may_end(key.owner))
            for key, line in lines.items()
            if key.owner
        ]
        owned += [Owned(key.owner, self._principals.get(key.owner, ""), 0.0, False) for key in opening if key.owner]
        found = to_end(owned, principal, most, alone=not caller.view.restricted)
        return found.owner if found is not None else None

    def is_half_full(self, lines: Iterable[ConnectionKey], opening: Iterable[ConnectionKey], most: int) -> bool:
        """Whether so many sessions have a process of their own that no more are begun before they are needed."""
        return sum(bool(key.owner) for keys in (lines, opening) for key in keys) >= most // 2

    def evicted(self, owner: str, why: str) -> None:
        """An owner's process ended for another session's: it gets the reason, and a legacy client's session ends."""
        self._leave_word(owner, Farewell(why, refuse=True))
        self.on_evicted(owner, why)

    def reaped(self, owner: str, why: str) -> None:
        """An owner's process ended because it was idle."""
        self._leave_word(owner, Farewell(why, refuse=False))

    def _leave_word(self, owner: str, farewell: Farewell) -> None:
        if len(self._farewells) >= _MAX_FAREWELLS:
            del self._farewells[next(iter(self._farewells))]
        self._farewells[owner] = farewell

    def farewell(self, owner: str) -> Farewell | None:
        """The farewell for the owner's next call; returned once."""
        return self._farewells.pop(owner, None)

    def forget(self, owner: str) -> None:
        """The owner is gone."""
        self._principals.pop(owner, None)
        self._farewells.pop(owner, None)
