"""Divides bounded storage fairly, so that one backend's flood does not evict another's events.

Each store (the history's rows, the hub's ring, a reader's buffer) is divided by backend and by what an event is
about: a *share*. Events are evicted from the largest shares until the rest fits. So a share below an equal part of the
capacity loses nothing to the others, and a single backend may use all of it. Denials are a share of their own: allowed
connections, however many, evict none of them.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from operator import attrgetter
from typing import TypeAlias, TypeVar

from observability.events import CallEvent, Decision, EgressEvent, Event, Sequenced, Via

T = TypeVar("T")


class Share(StrEnum):
    """The kinds of event that have a share of their own."""

    DENIED = "denied"
    LOOKUP = "lookup"
    """A denied lookup: programs make many of them before they use the proxy."""
    CARRIED = "carried"
    CALL = "call"
    STATE = "state"
    """Changes of a backend's state or its tools, and notices."""


Holder: TypeAlias = tuple[str, Share]
"""A backend (empty: the gateway itself) and one of its shares."""


def share_of(event: Event) -> Share:
    if isinstance(event, CallEvent):
        return Share.CALL
    if not isinstance(event, EgressEvent):
        return Share.STATE
    if event.decision is not Decision.DENY:
        return Share.CARRIED
    return Share.LOOKUP if event.via is Via.DNS else Share.DENIED


def level(counts: Iterable[int], room: int) -> int:
    """The largest count one may keep so that all together fit into `room`; the maximum if they already fit."""
    ascending = sorted(counts)
    for position, count in enumerate(ascending):
        left = len(ascending) - position
        if count * left > room:
            return room // left
        room -= count
    return max(ascending, default=0)


def fairly(groups: Sequence[Sequence[T]], room: int, age: Callable[[T], int]) -> list[T]:
    """At most `room` of the groups' members, by rising `age`. Each group is newest (greatest `age`) first.

    Each keeps up to its level; the remainder of the division goes to the newest.
    """
    most = level(map(len, groups), room)
    chosen = [one for group in groups for one in group[:most]]
    rest = heapq.nlargest(room - len(chosen), (one for group in groups for one in group[most:]), key=age)
    return sorted([*chosen, *rest], key=age)


class FairRing:
    """The newest events, at most `size`, in the order of their ids."""

    def __init__(self, size: int, kept: Iterable[Sequenced] = ()) -> None:
        self._size = size
        self._held: dict[Holder, deque[Sequenced]] = {}
        self._count = 0
        for item in kept:
            self.append(item)

    def __len__(self) -> int:
        return self._count

    def append(self, item: Sequenced) -> bool:
        """Puts the newest event in; False when an older one was evicted for it."""
        holder = (item.event.backend, share_of(item.event))
        own = self._held.get(holder)
        if own is None:
            own = self._held[holder] = deque()
        own.append(item)
        self._count += 1
        if self._count <= self._size:
            return True
        # The common case needs no search: a holder above an equal part gives up one of its own.
        crowded = holder if len(own) * len(self._held) > self._size else max(self._held, key=self._holds)
        self._take(crowded)
        return False

    def _holds(self, holder: Holder) -> int:
        return len(self._held[holder])

    def popleft(self) -> Sequenced:
        """Takes the oldest event out. Raises ValueError when there is none."""
        return self._take(min(self._held, key=lambda holder: self._held[holder][0].id))

    def _take(self, holder: Holder) -> Sequenced:
        own = self._held[holder]
        item = own.popleft()
        self._count -= 1
        if not own:
            del self._held[holder]
        return item

    def __iter__(self) -> Iterator[Sequenced]:
        """Oldest first."""
        return heapq.merge(*self._held.values(), key=attrgetter("id"))

    def __reversed__(self) -> Iterator[Sequenced]:
        return heapq.merge(*map(reversed, self._held.values()), key=attrgetter("id"), reverse=True)
