"""Keeps the history within its rows and days: each backend has a share of them, and its denials one of their own.

Theory of operation. How many rows each holder has (`observability.shares`) is counted as rows are written, so that to
find out who must give some up costs nothing; from time to time, and where a count proves wrong, the index is counted
again. Rows go from the holders that have most, oldest first, in transactions of a bounded size. The first denials of a
backend stay until they are too old: a flood of denials does not hide what it began with.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from observability.events import EgressEvent, Phase, Sequenced
from observability.shares import Holder, Share, level, share_of

logger = logging.getLogger(__name__)

TABLES: Final = ("events", "connections")
_EVERY: Final = 1000
_BATCH: Final = 2000
"""Rows that one transaction removes at most."""
_AGED_EVERY_S: Final = 600.0
_FIRST: Final = 100
"""One in so many of all rows may be a backend's first denials."""


class Pruner:
    """What is removed, and when; used by the writer's thread alone."""

    def __init__(self, *, max_rows: int, max_s: float, now: Callable[[], float]) -> None:
        self._max_rows = max_rows
        self._max_s = max_s
        self._now = now
        self._counts: dict[str, Counter[Holder]] = {}
        self._since_count = 0
        self._since_prune = 0
        self._aged = float("-inf")

    def wrote(self, db: sqlite3.Connection, batch: Iterable[Sequenced]) -> None:
        """These events were written; prunes when it is time to."""
        for item in batch:
            holder = (item.event.backend, share_of(item.event))
            self._count("events", holder)
            if isinstance(item.event, EgressEvent) and item.event.phase in (Phase.DECIDED, Phase.COUNTED):
                self._count("connections", holder)
            self._since_prune += 1
        if self._since_prune >= max(1, min(_EVERY, self._max_rows // 10)):
            self.prune(db)

    def _count(self, table: str, holder: Holder) -> None:
        if table in self._counts:
            self._counts[table][holder] += 1

    def prune(self, db: sqlite3.Connection) -> None:
        """Removes what is too old, then what is too much. Logs what the disk refuses; the next time tries again."""
        self._since_count += self._since_prune
        self._since_prune = 0
        try:
            self._remove_old(db)
            if self._since_count > self._max_rows // 4:
                self._counts.clear()
                self._since_count = 0
            for table in TABLES:
                self._recount(db, table, only_missing=True)
                while self._excess(table) > 0:
                    self._remove_most(db, table)
        except sqlite3.Error as error:
            self._counts.clear()
            logger.error("The history's old rows could not be removed: %s", error)

    def _recount(self, db: sqlite3.Connection, table: str, *, only_missing: bool = False) -> None:
        if only_missing and table in self._counts:
            return
        rows = db.execute(f"SELECT backend, share, count(*) FROM {table} GROUP BY backend, share")  # noqa: S608
        self._counts[table] = Counter({(backend, Share(share)): count for backend, share, count in rows})

    def _excess(self, table: str) -> int:
        return self._counts[table].total() - self._max_rows

    def _remove_old(self, db: sqlite3.Connection) -> None:
        if self._now() - self._aged < _AGED_EVERY_S:
            return
        self._aged = self._now()
        for table in TABLES:
            too_old = f"SELECT id FROM {table} WHERE time < ? LIMIT ?"  # noqa: S608
            while _remove(db, table, too_old, (self._aged - self._max_s, _BATCH)) == _BATCH:
                pass
            self._counts.pop(table, None)

    def _remove_most(self, db: sqlite3.Connection, table: str) -> None:
        """Removes a batch from each holder that is over its share."""
        counts = self._counts[table]
        most = level(counts.values(), self._max_rows)
        for holder, count in list(counts.items()):
            if count <= most:
                continue
            backend, share = holder
            first = min(self._max_rows // _FIRST, most // 2) if share is Share.DENIED else 0
            wanted = min(count - most, _BATCH)
            oldest = f"SELECT id FROM {table} WHERE backend = ? AND share = ? ORDER BY id LIMIT ? OFFSET ?"  # noqa: S608
            removed = _remove(db, table, oldest, (backend, share, wanted, first))
            if removed < wanted:  # a row changed its share, or was never there
                self._recount(db, table)
                return
            counts[holder] -= removed


def _remove(db: sqlite3.Connection, table: str, chosen: str, parameters: tuple[object, ...]) -> int:
    with db:
        return db.execute(f"DELETE FROM {table} WHERE id IN ({chosen})", parameters).rowcount  # noqa: S608
