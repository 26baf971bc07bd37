"""A hostile server tries to wash away what is known of it, or of its neighbours, and to fill the disk with its words."""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from gateway.control.running import process_started
from gateway.control.streams import event_json
from observability import events as vocabulary
from observability.event_json import to_json
from observability.events import (
    BackendEvent,
    CallEvent,
    CallRef,
    Decision,
    EgressEvent,
    Event,
    NoticeEvent,
    Phase,
    Reason,
    Sequenced,
    ToolChange,
    ToolEvent,
    Via,
)
from observability.history_queries import ConnectionFilter
from observability.hub import Hub
from observability.logs import JsonFormatter, event_record, has_line
from observability.store import History
from tests.gateway.cli.conftest import home, stockade, work  # noqa: F401  # fixtures
from tests.gateway.control.fakes import FakeControl, Running
from tests.gateway.mcp.clients import legacy
from tests.gateway.mcp.fakes import config, eventually, gateway, server
from tests.observability.samples import allowed, closed, decided, numbered

MAX_ROWS = 2000
MOST_OF_AN_EVENT = 100_000
"""Bytes of one event in the history, the ring, a stream or the log, whoever wrote the words in it. (A character is up
to 12 bytes of JSON; 320 of plain text are 320.)"""


# --- a flood against what is kept


@pytest.fixture
def running(home: Path, work: Path) -> Iterator[Running]:  # noqa: F811
    """A gateway with a small history, as the CLI finds it."""
    control = FakeControl(work, max_rows=MAX_ROWS)
    pid = os.getpid()
    with Running(control, Path(os.environ["STOCKADE_STATE_DIR"]), pid, process_started(pid) or "") as found:
        yield found


def evil(numbers: range, **changes: Any) -> list[Event]:
    """Events of another server than the one whose evidence is to be lost."""
    return [decided(number, backend="evil", host=f"h{number}.example", **changes) for number in numbers]


def carried(numbers: range) -> Iterator[Event]:
    for number in numbers:
        yield allowed(number, backend="evil")
        yield closed(number, backend="evil")


def tell(running: Running, events: Any) -> None:
    """In portions, each of them written: nothing is lost on the way."""
    several = iter(events)
    while portion := list(itertools.islice(several, 5000)):
        for event in portion:
            running.control.hub.publish(event)
        assert running.control.history.flush(60)


FLOODS = {
    "allowed connections": lambda: carried(range(1000, 4600)),
    "denials": lambda: evil(range(1000, 8200)),
    "lookups": lambda: evil(range(1000, 8200), via=Via.DNS, method="A", port=53),
    "all of it": lambda: [*carried(range(1000, 4600)), *evil(range(5000, 12_200))],
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_denial_of_one_server_outlives_the_flood_of_another(running: Running, stockade: Any, flood: str) -> None:  # noqa: F811
    """Red team M6, missing test 7: with 2000 rows, 2600 allowed requests of evil took calm's denial away."""
    tell(running, [decided(1, backend="calm", host="exfil-evidence.example", detail="what it was")])
    tell(running, FLOODS[flood]())

    assert running.control.history.dropped == 0
    blocked = {row["host"] for row in json.loads(stockade("egress", "blocked", "--json").out)}
    assert "exfil-evidence.example" in blocked
    assert "exfil-evidence.example" in stockade("egress", "blocked", "calm").out
    assert "exfil-evidence.example" in stockade("egress", "tail", "--backend", "calm").out
    hosts = [row.host for row in running.control.history.egress(ConnectionFilter(limit=500, fair=True))]
    assert "exfil-evidence.example" in hosts, "what the page loads"
    with closing(sqlite3.connect(running.control.directory / "history.db")) as db:
        for table in ("events", "connections"):
            (rows,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()  # one of two words
            assert rows <= MAX_ROWS * 1.1, "the bound is the bound all the same"


def test_a_server_hides_its_denials_neither_behind_what_was_carried_nor_behind_more_denials(running: Running) -> None:
    tell(running, [decided(1, backend="evil", host="first.example")])
    tell(running, carried(range(1000, 4600)))
    tell(running, evil(range(5000, 12_200)))

    kept = running.control.history.blocked(backend="evil", limit=5000)
    assert "first.example" in {row.host for row in kept}
    assert "h12199.example" in {row.host for row in kept}, "the newest are there too"


def test_after_a_restart_the_ring_has_the_evidence_too(running: Running) -> None:
    tell(running, [decided(1, backend="calm", host="exfil-evidence.example")])
    tell(running, FLOODS["all of it"]())
    hub = Hub(kept=running.control.history.newest(500), ring=500)

    found = hub.recent(20, lambda event: event.backend == "calm")
    assert [to_json(item.event)["host"] for item in found] == ["exfil-evidence.example"]
    assert hub.last_id == running.control.hub.last_id, "numbers go on from the last"


def test_a_list_that_is_full_has_hosts_of_every_server_and_says_that_there_are_more(
    running: Running,
    stockade: Any,  # noqa: F811
) -> None:
    tell(
        running,
        [decided(1, backend="calm", host="calm.example"), decided(2, backend="calm", via=Via.DNS, host="n.ex")],
    )
    tell(running, evil(range(1000, 1600)))
    tell(running, evil(range(2000, 2600), via=Via.DNS, method="A"))

    found = running.control.history.blocked_list(limit=50)
    assert len(found.rows) == 50
    assert found.more == 551
    assert "calm" in {row.backend for row in found.rows}
    assert "calm" in {row.backend for row in running.control.history.lookups(limit=50)}
    assert "401 more were blocked" in stockade("egress", "blocked").err


def test_a_flood_while_the_disk_stands_still_takes_no_place_from_a_neighbour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, reached = threading.Event(), threading.Event()
    write = History._write
    monkeypatch.setattr(History, "_write", lambda *given: (reached.set(), gate.wait(60), write(*given)))
    history = History(tmp_path / "history.db", queue_size=100)
    flood = numbered(*evil(range(1, 1000)))
    history.record(flood[0])
    assert reached.wait(60), "the writer is at it"
    for item in flood[1:]:
        history.record(item)
    history.record(numbered(decided(5000, backend="calm", host="exfil-evidence.example"), first=5000)[0])
    gate.set()
    history.close()

    assert [row.host for row in history.egress(ConnectionFilter(backend="calm"))] == ["exfil-evidence.example"]
    assert history.dropped == 1000 - 1 - 100


def test_removing_rows_looks_at_no_other_rows(tmp_path: Path) -> None:
    """So the cost of an insert does not grow with the history."""
    history = History(tmp_path / "history.db")
    history.close()
    with closing(sqlite3.connect(tmp_path / "history.db")) as db:
        for table in ("events", "connections"):
            oldest = f"SELECT id FROM {table} WHERE backend = ? AND share = ? ORDER BY id LIMIT ? OFFSET ?"
            plan = db.execute(f"EXPLAIN QUERY PLAN {oldest}", ("evil", "denied", 10, 0)).fetchall()
            assert [f"COVERING INDEX {table}_by_share (backend=? AND share=?)" in row[3] for row in plan] == [True]


# --- words without an end


def every_text_is_huge(kind: type[Any], text: str) -> Event:
    known: dict[str, Any] = {
        "seq": 1, "epoch": "e", "phase": Phase.DECIDED, "time": 1000.0, "connection": 1, "port": 443,
        "decision": Decision.DENY, "reason": Reason.HOST_NOT_ALLOWED, "severity": vocabulary.Severity.ERROR,
        "state": vocabulary.BackendState.FAILED, "change": ToolChange.CHANGED, "denied": (text,) * 1000,
        "calls": tuple(CallRef(request_id=text, method=text, tool=text, client=text) for _ in range(1000)),
    }  # fmt: skip
    values = {one.name: text if one.type == "str" else known.get(one.name) for one in fields(kind)}
    event: Event = kind(**{name: value for name, value in values.items() if value is not None})
    return event


@pytest.mark.parametrize(
    "text", ["x" * 1_000_000, "\x00" * 1_000_000, "\U0001f600" * 1_000_000], ids=["ascii", "nul", "emoji"]
)
@pytest.mark.parametrize("kind", [EgressEvent, CallEvent, BackendEvent, ToolEvent, NoticeEvent])
def test_no_event_is_large_wherever_it_goes(tmp_path: Path, kind: type[Any], text: str) -> None:
    """Red team M4 (d), missing test 6: a notice of 12 MB was in the history, in the ring and on every stream."""
    item = Sequenced(id=1, event=every_text_is_huge(kind, text))
    assert len(json.dumps(event_json(item))) < MOST_OF_AN_EVENT
    assert "1000000 characters]" in json.dumps(event_json(item), ensure_ascii=False)
    history = History(tmp_path / "history.db")
    history.record(item)
    assert history.flush()
    history.close()
    with closing(sqlite3.connect(tmp_path / "history.db")) as db:
        (body,) = db.execute("SELECT length(CAST(body AS BLOB)) FROM events").fetchone()
        assert 0 < body < MOST_OF_AN_EVENT
        for row in db.execute("SELECT * FROM connections"):
            assert sum(len(str(value)) for value in row) < 2 * MOST_OF_AN_EVENT
    assert len(logged(item)) < 2 * MOST_OF_AN_EVENT


def logged(item: Sequenced) -> str:
    return JsonFormatter().format(event_record(item.event)) if has_line(item.event) else ""


SHOUTER = r"""
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    number, method = message.get("id"), message.get("method")
    if method == "initialize":
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": ""}}
    elif method == "tools/list":
        result = {"tools": []}
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": number, "result": result}), flush=True)
    if method == "tools/list":
        print(json.dumps({"jsonrpc": "2.0", "method": "m" * 12_000_000}), flush=True)
"""


@pytest.mark.anyio
async def test_a_method_of_12_mb_is_a_notice_of_some_hundred_bytes() -> None:
    """Red team M4 (d), through the endpoint: it came while no call was in flight."""
    command = (sys.executable, "-c", SHOUTER)
    async with gateway(config({"evil": server(sessions="shared")}), {"evil": command}) as running:
        async with legacy(running.url("evil")) as client:
            await client.request("tools/list")
            await eventually(lambda: any(isinstance(event, NoticeEvent) for event in running.events))
    for event in running.events:
        assert len(json.dumps(to_json(event))) < 1000


# --- a history from before shares


def test_a_history_of_the_version_before_keeps_its_evidence(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    history = History(path, now=lambda: 2000.0)
    for item in numbered(decided(1), allowed(2), closed(2), decided(3, via=Via.DNS), *carried(range(10, 12))):
        history.record(item)
    assert history.flush()
    before = (history.events(), history.egress())
    history.close()
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            """
            DROP INDEX events_by_share; DROP INDEX connections_by_share;
            ALTER TABLE events DROP COLUMN share; CREATE INDEX events_by_backend ON events (backend, id);
            ALTER TABLE connections DROP COLUMN share; ALTER TABLE connections DROP COLUMN more_calls;
            PRAGMA user_version = 1;
            """
        )

    history = History(path, now=lambda: 2000.0)
    assert (history.events(), history.egress()) == before
    with closing(sqlite3.connect(path)) as db:
        counted = "SELECT share, count(*) FROM {} GROUP BY share ORDER BY share"
        assert db.execute(counted.format("events")).fetchall() == [("carried", 6), ("denied", 1), ("lookup", 1)]
        assert db.execute(counted.format("connections")).fetchall() == [("carried", 3), ("denied", 1), ("lookup", 1)]
    history.close()
    assert not path.with_name("history.db.damaged").exists()


# --- what is lost is said


def test_what_was_lost_is_said_by_ps_and_by_blocked(running: Running, stockade: Any) -> None:  # noqa: F811
    """Red team m11: only a metric and the log knew."""
    assert "lost" not in stockade("ps").out
    gap = NoticeEvent(time=1.0, source="egress", code="events_dropped", backend="evil", count=7)
    running.publish(gap)
    running.publish(gap)
    running.control.losses.note("history", "The history h could not be written: disk is full.", 33)

    for said in (stockade("ps").out, stockade("egress", "blocked").err):
        assert "14 events of evil were lost between " in said
        assert "too slow to read what the egress reported." in said
        assert "33 events were lost between " in said
        assert "disk is full." in said
    assert json.loads(stockade("ps", "--json").out)["status"]["warnings"][0].startswith("This view is incomplete")
