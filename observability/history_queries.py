"""What can be asked of the event history, as SQL on an open connection."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from typing import Any

from observability.events import By
from observability.shares import fairly

MAX_LIMIT = 5000
_NEWEST_TOOLS = 20
"""Of a blocked host or a looked-up name: the newest connections, whose calls are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionFilter:
    """Which connections are wanted; a field at its default does not narrow."""

    backend: str = ""
    decision: str = ""
    reason: str = ""
    via: str = ""
    host: str = ""
    """Exactly this host."""
    text: str = ""
    """Part of the host, the address or the destination, in any case."""
    tool: str = ""
    """Connections made while this tool was being called."""
    open: bool = False
    """Only those that are carried now."""
    since: float = 0.0
    """Unix time."""
    until: float = 0.0
    before_id: int = 0
    """For paging: only connections with a lower id."""
    fair: bool = False
    """The newest of each backend, where all together are more than `limit`."""
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionRow:
    """One connection as last heard of; fields as in `EgressEvent`."""

    id: int
    """The id of the event that decided it."""
    epoch: str
    connection: int
    time: float
    closed: float | None
    """Unix time, None while it is open (or was denied at once)."""
    backend: str
    door: str
    via: str
    method: str
    host: str
    port: int
    destination: str
    address: str
    decision: str
    reason: str
    rule: str
    mode: str
    detail: str
    bytes_sent: int
    bytes_received: int
    dns_s: float | None
    connect_s: float | None
    duration_s: float | None
    count: int
    calls: tuple[dict[str, str], ...]
    """As `CallRef`; fields at their default are left out."""
    more_calls: int

    @property
    def certainty(self) -> str:
        """`certain`, `probable`, or empty when no call was in flight."""
        count = len(self.calls) + self.more_calls
        return ("", "certain")[count] if count < 2 else "probable"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "certainty": self.certainty}


@dataclass(frozen=True, slots=True, kw_only=True)
class TopRow:
    """One group of connections."""

    name: str
    connections: int
    denied: int
    bytes_sent: int
    bytes_received: int
    last: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """A host and port that a backend was refused."""

    backend: str
    host: str
    """What to allow: the host as the caller named it, else the address it dialled."""
    port: int
    count: int
    first: float
    last: float
    reasons: tuple[str, ...]
    detail: str
    """Of the latest."""
    via: tuple[str, ...]
    tools: tuple[str, ...]
    """Tools that were being called at the time."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """A name that a backend resolved itself and never asked the proxy for."""

    backend: str
    host: str
    count: int
    first: float
    last: float
    types: tuple[str, ...]
    """Query types: `A`, `AAAA`, …"""
    direct_attempts: int
    """Direct connections of that backend that were blocked in the same time, to any address."""
    tools: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def events(
    db: sqlite3.Connection, *, since_id: int, kinds: Sequence[str], backend: str, limit: int
) -> list[tuple[int, str]]:
    where = ["id > ?"]
    parameters: list[object] = [since_id]
    if kinds:
        where.append(f"kind IN ({', '.join('?' * len(kinds))})")
        parameters += kinds
    if backend:
        where.append("backend = ?")
        parameters.append(backend)
    sql = f"SELECT id, body FROM events WHERE {' AND '.join(where)} ORDER BY id LIMIT ?"  # noqa: S608
    return db.execute(sql, (*parameters, _bounded(limit))).fetchall()


def newest(db: sqlite3.Connection, limit: int) -> list[tuple[int, str]]:
    """The newest events, each backend's shares of them, oldest first."""
    holders = db.execute("SELECT DISTINCT backend, share FROM events").fetchall()
    sql = "SELECT id FROM events WHERE backend = ? AND share = ? ORDER BY id DESC LIMIT ?"
    groups = [[number for (number,) in db.execute(sql, (*holder, limit))] for holder in holders]
    chosen = fairly(groups, limit, age=int)
    bodies = "SELECT id, body FROM events WHERE id = ?"
    return [db.execute(bodies, (number,)).fetchone() for number in chosen]


def connections(db: sqlite3.Connection, wanted: ConnectionFilter) -> list[ConnectionRow]:
    if not wanted.fair or wanted.backend:
        return _connections(db, wanted)
    names = [name for (name,) in db.execute("SELECT DISTINCT backend FROM connections")]
    groups = [_connections(db, replace(wanted, backend=name)) for name in names if name]
    return fairly(groups, _bounded(wanted.limit), age=attrgetter("id"))[::-1]


def _connections(db: sqlite3.Connection, wanted: ConnectionFilter) -> list[ConnectionRow]:
    where, parameters = _conditions(wanted)
    sql = f"SELECT * FROM connections WHERE {where} ORDER BY id DESC LIMIT ?"  # noqa: S608
    cursor = db.execute(sql, (*parameters, _bounded(wanted.limit)))
    names = [column[0] for column in cursor.description]
    return [_connection_row(dict(zip(names, row, strict=True))) for row in cursor]


def _connection_row(values: dict[str, Any]) -> ConnectionRow:
    values["calls"] = tuple(json.loads(values["calls"]))
    del values["tools"], values["share"]
    return ConnectionRow(**values)


def _conditions(wanted: ConnectionFilter) -> tuple[str, list[object]]:
    exact = {column: getattr(wanted, column) for column in ("backend", "decision", "reason", "via", "host")}
    conditions: list[tuple[str, tuple[object, ...]]] = [("1 = 1", ())]
    conditions += [(f"{column} = ?", (value,)) for column, value in exact.items() if value]
    if wanted.text:
        text = wanted.text
        conditions.append(
            ("(instr(lower(host), lower(?)) OR instr(address, ?) OR instr(destination, ?))", (text,) * 3)
        )
    if wanted.tool:
        conditions.append(("instr(', ' || tools || ', ', ', ' || ? || ', ')", (wanted.tool,)))
    if wanted.open:
        conditions.append(("closed IS NULL AND decision <> 'deny'", ()))
    if wanted.since:
        conditions.append(("time >= ?", (wanted.since,)))
    if wanted.until:
        conditions.append(("time < ?", (wanted.until,)))
    if wanted.before_id:
        conditions.append(("id < ?", (wanted.before_id,)))
    where = " AND ".join(condition for condition, _ in conditions)
    return where, [value for _, values in conditions for value in values]


def top(db: sqlite3.Connection, by: By, *, backend: str, decision: str, since: float, limit: int) -> list[TopRow]:
    """Lookups are not connections and do not count."""
    column = "tools" if by is By.TOOL else by.value
    sql = f"""
        SELECT {column}, sum(count), sum(iif(decision = 'deny', count, 0)), sum(bytes_sent), sum(bytes_received),
               max(time)
        FROM connections
        WHERE via <> 'dns' AND {column} <> '' AND time >= ? AND ? IN ('', backend) AND ? IN ('', decision)
        GROUP BY {column} ORDER BY 2 DESC, 6 DESC LIMIT ?
    """  # noqa: S608  # the column is one of an enum
    rows = db.execute(sql, (since, backend, decision, _bounded(limit)))
    return [
        TopRow(name=name, connections=count, denied=denied, bytes_sent=sent, bytes_received=received, last=last)
        for name, count, denied, sent, received, last in rows
    ]


_BLOCKED = """
WITH denied AS (
  SELECT *, iif(host = '', rtrim(rtrim(destination, '0123456789'), ':'), host) AS wanted
  FROM connections WHERE decision = 'deny' AND via <> 'dns' AND time >= ? AND ? IN ('', backend)
), aged AS (
  SELECT *, row_number() OVER (PARTITION BY backend, wanted, port ORDER BY time DESC, id DESC) AS age FROM denied
), grouped AS (
  SELECT backend, wanted, port, sum(count), min(time), max(time) AS latest, group_concat(DISTINCT reason),
         max(iif(age = 1, detail, '')), group_concat(DISTINCT via),
         group_concat(DISTINCT iif(age <= ?, tools, NULL))
  FROM aged GROUP BY backend, wanted, port
)
SELECT *, row_number() OVER (PARTITION BY backend ORDER BY latest DESC) AS turn, count(*) OVER () AS found
FROM grouped ORDER BY turn, latest DESC LIMIT ?
"""
"""By turns, one of each backend at a time, so that no backend fills the list; `found` is how many there are in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockedList:
    """What `blocked` found."""

    rows: list[Blocked]
    """Latest first."""
    more: int
    """How many hosts were found besides."""


def blocked(db: sqlite3.Connection, *, backend: str, since: float, limit: int) -> BlockedList:
    found = db.execute(_BLOCKED, (since, backend, _NEWEST_TOOLS, _bounded(limit))).fetchall()
    rows = [
        Blocked(
            backend=name,
            host=host,
            port=port,
            count=count,
            first=first,
            last=last,
            reasons=_words(reasons),
            detail=detail,
            via=_words(via),
            tools=_words(tools),
        )
        for name, host, port, count, first, last, reasons, detail, via, tools, *_ in found
    ]
    rows.sort(key=attrgetter("last"), reverse=True)
    return BlockedList(rows=rows, more=found[0][-1] - len(rows) if found else 0)


_LOOKUPS = """
WITH direct AS (
  SELECT backend, sum(count) AS attempts FROM connections
  WHERE via = 'direct' AND decision = 'deny' AND time >= ?1 GROUP BY backend
), aged AS (
  SELECT *, row_number() OVER (PARTITION BY backend, host ORDER BY id DESC) AS age FROM connections
  WHERE via = 'dns' AND decision = 'deny' AND time >= ?1 AND ?2 IN ('', backend)
), looked AS (
  SELECT backend, host, sum(count), min(time), max(time) AS latest,
         group_concat(DISTINCT iif(age <= ?4, method, NULL)), group_concat(DISTINCT iif(age <= ?4, tools, NULL))
  FROM aged GROUP BY backend, host
), turns AS (
  SELECT *, row_number() OVER (PARTITION BY backend ORDER BY latest DESC) AS turn FROM looked
  WHERE NOT EXISTS (SELECT 1 FROM connections AS asked
                    WHERE asked.host = looked.host AND asked.backend = looked.backend AND asked.via = 'proxy')
  ORDER BY turn, latest DESC LIMIT ?3
)
SELECT turns.*, coalesce(direct.attempts, 0) FROM turns LEFT JOIN direct ON direct.backend = turns.backend
ORDER BY latest DESC
"""


def lookups(db: sqlite3.Connection, *, backend: str, since: float, limit: int) -> list[Lookup]:
    rows = db.execute(_LOOKUPS, (since, backend, _bounded(limit), _NEWEST_TOOLS))
    return [
        Lookup(
            backend=name,
            host=host,
            count=count,
            first=first,
            last=last,
            types=_words(types),
            direct_attempts=attempts,
            tools=_words(tools),
        )
        for name, host, count, first, last, types, tools, _, attempts in rows
    ]


def _words(joined: str | None) -> tuple[str, ...]:
    """The distinct words of a `group_concat`, sorted."""
    return tuple(sorted({word.strip() for word in (joined or "").split(",") if word.strip()}))


def _bounded(limit: int) -> int:
    return max(1, min(limit, MAX_LIMIT))
