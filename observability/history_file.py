"""The history's file: its schema, how it is opened, and how an event becomes rows."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final, TypeAlias

from observability.event_json import ref_json, to_json
from observability.events import EgressEvent, Event, Phase, Sequenced
from observability.shares import share_of
from observability.text import encodable

logger = logging.getLogger(__name__)

Row: TypeAlias = tuple[object, ...]

SCHEMA_VERSION: Final = 2
_SCHEMA: Final = """
CREATE TABLE events (
  id INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL, backend TEXT NOT NULL, body TEXT NOT NULL,
  share TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_share ON events (backend, share, id);
CREATE TABLE connections (
  id INTEGER PRIMARY KEY, epoch TEXT NOT NULL, connection INTEGER NOT NULL,
  time REAL NOT NULL, closed REAL, backend TEXT NOT NULL, door TEXT NOT NULL, via TEXT NOT NULL,
  method TEXT NOT NULL, host TEXT NOT NULL, port INTEGER NOT NULL, destination TEXT NOT NULL,
  address TEXT NOT NULL, decision TEXT NOT NULL, reason TEXT NOT NULL, rule TEXT NOT NULL, mode TEXT NOT NULL,
  detail TEXT NOT NULL, bytes_sent INTEGER NOT NULL, bytes_received INTEGER NOT NULL,
  dns_s REAL, connect_s REAL, duration_s REAL, count INTEGER NOT NULL, calls TEXT NOT NULL, tools TEXT NOT NULL,
  more_calls INTEGER NOT NULL, share TEXT NOT NULL,
  UNIQUE (epoch, connection)
) STRICT;
CREATE INDEX connections_by_time ON connections (time);
CREATE INDEX connections_by_backend ON connections (backend, id);
CREATE INDEX connections_by_host ON connections (host, id);
CREATE INDEX connections_by_share ON connections (backend, share, id);
"""
_TO_2: Final = """
ALTER TABLE events ADD COLUMN share TEXT NOT NULL DEFAULT 'state';
UPDATE events SET share = 'call' WHERE kind = 'call';
UPDATE events SET share = CASE
  WHEN json_extract(body, '$.decision') <> 'deny' THEN 'carried'
  WHEN json_extract(body, '$.via') = 'dns' THEN 'lookup' ELSE 'denied' END
WHERE kind = 'egress';
DROP INDEX events_by_backend;
CREATE INDEX events_by_share ON events (backend, share, id);
ALTER TABLE connections ADD COLUMN more_calls INTEGER NOT NULL DEFAULT 0;
ALTER TABLE connections ADD COLUMN share TEXT NOT NULL DEFAULT 'carried';
UPDATE connections SET share = iif(via = 'dns', 'lookup', 'denied') WHERE decision = 'deny';
CREATE INDEX connections_by_share ON connections (backend, share, id);
"""
"""From version 1: what is kept was not divided among the backends."""
INSERT_EVENT: Final = "INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?, ?, ?)"
_DISK: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
_COLUMNS: Final = (
    "id, epoch, connection, time, closed, backend, door, via, method, host, port, destination, address, decision,"
    " reason, rule, mode, detail, bytes_sent, bytes_received, dns_s, connect_s, duration_s, count, calls, tools,"
    " more_calls, share"
)
UPSERT_CONNECTION: Final = f"""
INSERT INTO connections ({_COLUMNS}) VALUES ({", ".join("?" * 28)})
ON CONFLICT (epoch, connection) DO UPDATE SET
  closed = coalesce(excluded.closed, closed), decision = excluded.decision,
  reason = iif(excluded.reason = '', reason, excluded.reason),
  detail = iif(excluded.detail = '', detail, excluded.detail),
  rule = iif(excluded.rule = '', rule, excluded.rule),
  address = iif(excluded.address = '', address, excluded.address),
  bytes_sent = max(excluded.bytes_sent, bytes_sent), bytes_received = max(excluded.bytes_received, bytes_received),
  dns_s = coalesce(excluded.dns_s, dns_s), connect_s = coalesce(excluded.connect_s, connect_s),
  duration_s = coalesce(excluded.duration_s, duration_s),
  more_calls = iif(calls = '[]', excluded.more_calls, more_calls), share = excluded.share,
  calls = iif(calls = '[]', excluded.calls, calls), tools = iif(tools = '', excluded.tools, tools)
"""  # noqa: S608  # the columns are a constant above
CLOSE_STALE: Final = """
UPDATE connections SET closed = ?, detail = 'The egress ended before this connection was closed.'
WHERE closed IS NULL AND decision <> 'deny' AND epoch <> ?
"""


def connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def prepare(path: Path) -> None:
    """Makes sure that `path` is a sound history of our schema. Raises OSError where the disk does not let it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _open_or_create(path)
    except sqlite3.DatabaseError as error:
        if is_of_disk(error):
            raise OSError(f"The history {path} cannot be written: {refusal(path, error)}") from error
        aside = path.with_name(path.name + ".damaged")
        logger.error("History %s cannot be used (%s); it is now %s and a new one was started.", path, error, aside)
        _put_aside(path, aside)
        _open_or_create(path)


def is_of_disk(error: sqlite3.DatabaseError) -> bool:
    """Whether it is the disk that refused; the file itself is sound."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DISK


def refusal(path: Path, error: Exception) -> str:
    """What SQLite says of a disk that refuses, and what to do."""
    return f"{error}. Make room on its disk (df -h {path.parent} shows how much there is), then try again."


def _open_or_create(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    with closing(connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version < 2:
            change = _TO_2 if version else _SCHEMA
            db.executescript(f"BEGIN; {change} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"its schema is version {version}, not {SCHEMA_VERSION}")
        (state,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise sqlite3.DatabaseError(str(state))


def _put_aside(path: Path, aside: Path) -> None:
    path.replace(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def event_row(item: Sequenced) -> Row:
    event: Event = item.event
    data = to_json(event)
    body = json.dumps(data, separators=(",", ":"))
    return item.id, event.time, data["kind"], encodable(event.backend), body, share_of(event)


def connection_row(number: int, event: EgressEvent) -> Row:
    calls = json.dumps([ref_json(call) for call in event.calls], separators=(",", ":"))
    tools = ", ".join(sorted({call.tool or call.method for call in event.calls}))
    connection = -event.seq if event.phase is Phase.COUNTED or event.connection == 0 else event.connection
    closed = event.time if event.phase is Phase.CLOSED else None
    later = event.phase in (Phase.CLOSED, Phase.PROGRESS)
    started = event.time - (event.duration_s or 0.0) if later else event.time
    row: Row = (
        number, event.epoch, connection, started, closed, event.backend, event.door, event.via,
        event.method, event.host, event.port, event.destination, event.address, event.decision,
        event.reason or "", event.rule, event.mode, event.detail, event.bytes_sent, event.bytes_received,
        event.dns_s, event.connect_s, event.duration_s, event.count, calls, tools,
        event.more_calls, share_of(event),
    )  # fmt: skip
    return tuple(encodable(value) if isinstance(value, str) else value for value in row)
