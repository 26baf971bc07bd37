"""The event history: SQLite with a write-ahead log, one writer thread, bounded by rows and days.

Theory of operation. `record` puts an event into a bounded queue and returns; the writer thread takes all that is
there, writes it in transactions and commits, so what was committed survives `kill -9` of the process (WAL,
`synchronous=NORMAL`; a power cut may lose the last moments, never the file's consistency). When the queue is full
or the disk refuses, the event is lost, counted (`dropped`) and noted in `Losses`. Two tables: every event as its JSON, and
one row per egress connection, updated when it closes, which the queries read.

Queries open a connection of their own, so they may run on any thread; they block on the disk, so call them from
async code through `asyncio.to_thread`. They see what was recorded before: they wait until it is committed.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from observability import history_queries as queries
from observability.event_json import event_from_json
from observability.event_queue import EventQueue
from observability.events import By, EgressEvent, Event, Sequenced
from observability.history_file import (
    CLOSE_STALE,
    INSERT_EVENT,
    UPSERT_CONNECTION,
    connect,
    connection_row,
    event_row,
    is_of_disk,
    prepare,
    refusal,
)
from observability.history_prune import Pruner
from observability.history_queries import Blocked, BlockedList, ConnectionFilter, ConnectionRow, Lookup, TopRow
from observability.losses import Losses

logger = logging.getLogger(__name__)

_READ_PATIENCE_S: Final = 2.0
"""How long a query waits for events that are queued: then it answers without them."""


class History:
    """The stored events of one project. Open it once per process; `close` writes what is queued."""

    def __init__(
        self,
        path: Path,
        *,
        max_rows: int = 200_000,
        max_days: float = 30.0,
        queue_size: int = 20_000,
        on_drop: Callable[[int], None] | None = None,
        losses: Losses | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Opens or creates `path` (mode 0600). A file that SQLite finds damaged, or of another schema, is moved
        to `PATH.damaged` and a new one is started. Raises OSError when the directory cannot be written.

        `max_rows` bounds each of the two tables; `history_prune` decides which rows go. `on_drop(count)` is called
        on the writer's or the recorder's thread for events that were lost, and `losses` records why.
        """
        self._path = path
        self._on_drop = on_drop
        self._losses = losses
        self._queue = EventQueue(queue_size)
        self._pruner = Pruner(max_rows=max_rows, max_s=max_days * 86400, now=now)
        self._epoch = ""
        self._closed = False
        self.dropped = 0
        """Events that were lost because the queue was full or the disk refused."""
        prepare(path)
        self._writer = threading.Thread(target=self._write_all, name="history", daemon=True)
        self._writer.start()

    # writing

    def record(self, item: Sequenced) -> None:
        """The hub's sink: queues the event for the writer. Never blocks; after `close` the event is lost."""
        if not self._queue.put(item):
            behind = f"is {self._queue.size} events behind: the disk is too slow"
            self._lost(1, f"The history {self._path} {'is closed' if self._closed else behind}.")

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Waits until everything recorded before is committed; False when that took longer than `timeout_s`."""
        if self._closed:
            return True
        return self._queue.flushed().wait(timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Writes what is queued and stops the writer; waits at most `timeout_s`."""
        if self._closed:
            return
        self._closed = True
        self._queue.close()
        self._writer.join(timeout_s)

    def _lost(self, count: int, why: str) -> None:
        self.dropped += count
        if self._losses is not None:
            self._losses.note("history", why, count)
        if self._on_drop is not None:
            self._on_drop(count)

    def _write_all(self) -> None:
        with closing(connect(self._path)) as db:
            self._pruner.prune(db)
            self._queue.drain(lambda batch: self._write(db, batch))

    def _write(self, db: sqlite3.Connection, batch: Sequence[Sequenced]) -> None:
        try:
            with db:
                db.executemany(INSERT_EVENT, [event_row(item) for item in batch])
                for item in batch:
                    if isinstance(item.event, EgressEvent):
                        self._write_connection(db, item.id, item.event)
        except Exception as error:
            # The top of this thread: a batch that fails must not stop the next one.
            logger.exception("History %s: %d events were not kept: %s", self._path, len(batch), error)
            of_disk = isinstance(error, sqlite3.DatabaseError) and is_of_disk(error)
            why = refusal(self._path, error) if of_disk else str(error)
            self._lost(len(batch), f"The history {self._path} could not be written: {why}")
            return
        self._pruner.wrote(db, batch)

    def _write_connection(self, db: sqlite3.Connection, number: int, event: EgressEvent) -> None:
        if event.epoch != self._epoch:
            self._epoch = event.epoch
            db.execute(CLOSE_STALE, (event.time, event.epoch))
        db.execute(UPSERT_CONNECTION, connection_row(number, event))

    # reading

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        self.flush(_READ_PATIENCE_S)
        try:
            with closing(connect(self._path)) as db:
                db.execute("PRAGMA query_only = ON")
                yield db
        except sqlite3.DatabaseError as error:
            if not is_of_disk(error):
                raise
            raise OSError(f"The history {self._path} cannot be read: {refusal(self._path, error)}") from error

    def newest(self, limit: int = 5000) -> list[Sequenced]:
        """The newest stored events, each backend's share of them, oldest first: `Hub(kept=history.newest())` goes on from
        them.
        """
        with self._reader() as db:
            return _sequenced(queries.newest(db, limit))

    def last_egress(self) -> tuple[str, int] | None:
        """Epoch and sequence number of the newest stored egress event: where to resume the egress's stream."""
        with self._reader() as db:
            row = db.execute("SELECT body FROM events WHERE kind = 'egress' ORDER BY id DESC LIMIT 1").fetchone()
        if row is None:
            return None
        event = json.loads(row[0])
        return event["epoch"], event["seq"]

    def events(
        self, *, since_id: int = 0, kinds: Sequence[str] = (), backend: str = "", limit: int = 1000
    ) -> list[Sequenced]:
        """Stored events after `since_id`, oldest first. `kinds` are those of `to_json`: egress, call, …."""
        with self._reader() as db:
            return _sequenced(queries.events(db, since_id=since_id, kinds=kinds, backend=backend, limit=limit))

    def egress(self, wanted: ConnectionFilter | None = None) -> list[ConnectionRow]:
        """Connections, newest first."""
        with self._reader() as db:
            return queries.connections(db, wanted or ConnectionFilter())

    def search(self, host: str, *, limit: int = 100) -> list[ConnectionRow]:
        """Connections whose host, address or destination contains the text, newest first."""
        return self.egress(ConnectionFilter(text=host, limit=limit))

    def top(
        self, by: By = By.HOST, *, backend: str = "", decision: str = "", since: float = 0.0, limit: int = 20
    ) -> list[TopRow]:
        """The most frequent hosts, backends, rules, reasons or tools, most frequent first."""
        with self._reader() as db:
            return queries.top(db, by, backend=backend, decision=decision, since=since, limit=limit)

    def blocked(self, *, backend: str = "", since: float = 0.0, limit: int = 200) -> list[Blocked]:
        """Denied connections grouped by backend, host and port, latest first (lookups are in `lookups`)."""
        return self.blocked_list(backend=backend, since=since, limit=limit).rows

    def blocked_list(self, *, backend: str = "", since: float = 0.0, limit: int = 200) -> BlockedList:
        """As `blocked`, and how many more hosts there are."""
        with self._reader() as db:
            return queries.blocked(db, backend=backend, since=since, limit=limit)

    def lookups(self, *, backend: str = "", since: float = 0.0, limit: int = 200) -> list[Lookup]:
        """Names that a backend looked up itself and never asked the proxy for, latest first: programs that seem
        to ignore the proxy. (One that asks the proxy afterwards is well behaved and not listed.)
        """
        with self._reader() as db:
            return queries.lookups(db, backend=backend, since=since, limit=limit)


def _sequenced(rows: Sequence[tuple[int, str]]) -> list[Sequenced]:
    return [Sequenced(id=number, event=event) for number, body in rows if (event := _event(body)) is not None]


def _event(body: str) -> Event | None:
    """None for an event of another version, which this one does not know."""
    try:
        return event_from_json(json.loads(body))
    except (ValueError, TypeError):
        return None
