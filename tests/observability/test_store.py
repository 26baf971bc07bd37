"""The history keeps events through kill -9, in bounds, and answers what the API asks."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from observability.events import (
    BackendEvent,
    BackendState,
    By,
    Decision,
    EgressEvent,
    Phase,
    Reason,
    Via,
)
from observability.history_queries import ConnectionFilter
from observability.store import History
from tests.observability.samples import allowed, call_ref, called, closed, decided, moved, numbered

NOW = 2000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history.db"


@pytest.fixture
def history(path: Path) -> Iterator[History]:
    history = History(path, now=lambda: NOW)
    yield history
    history.close()


def fill(history: History, *events: Any, first: int = 1) -> None:
    for item in numbered(*events, first=first):
        history.record(item)
    assert history.flush()


def looked_up(connection: int, host: str, **changes: Any) -> EgressEvent:
    values = {"via": Via.DNS, "method": "A", "host": host, "port": 53, "reason": Reason.DIRECT_ATTEMPT}
    return decided(connection, **(values | changes))


def test_events_come_back_as_they_went_in(history: History) -> None:
    events = [
        decided(1, calls=(call_ref(), call_ref(request_id="8", trace_id="ab" * 16))),
        called(denied=("evil.example:443 (host_not_allowed)",)),
        BackendEvent(time=1001.0, backend="time", state=BackendState.RUNNING),
    ]
    fill(history, *events)

    assert history.events() == numbered(*events)
    assert history.events(kinds=["call"]) == [numbered(*events)[1]]
    assert history.events(since_id=2) == [numbered(*events)[2]]
    assert history.events(backend="time") == [numbered(*events)[2]]
    assert history.newest(2) == numbered(*events)[1:]


def test_an_event_of_another_version_is_left_out(history: History, path: Path) -> None:
    fill(history, decided(1), decided(2))
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE events SET body = replace(body, 'egress', 'of the future') WHERE id = 1")

    assert [item.id for item in history.newest()] == [2]


def test_a_connection_is_one_row_that_its_end_completes(history: History) -> None:
    fill(history, allowed(1, calls=(call_ref(),)))
    (row,) = history.egress(ConnectionFilter(open=True))
    assert (row.closed, row.bytes_sent, row.certainty) == (None, 0, "certain")

    fill(history, closed(1), first=2)

    assert history.egress(ConnectionFilter(open=True)) == []
    (row,) = history.egress()
    assert (row.id, row.closed, row.bytes_sent, row.duration_s) == (1, 1003.0, 500, 2.0)
    assert (row.rule, row.decision, row.calls[0]["tool"]) == ("api.github.com", "allow", "fetch")
    assert row.to_json()["certainty"] == "certain"


def test_what_report_mode_would_have_said_stays_when_the_connection_ends(history: History) -> None:
    report: dict[str, Any] = {"decision": Decision.REPORT, "reason": Reason.HOST_NOT_ALLOWED}
    fill(history, allowed(1, **report), closed(1, **report | {"reason": None}))

    assert history.egress()[0].reason == "host_not_allowed"


def test_an_event_sent_again_after_a_resume_changes_nothing(history: History) -> None:
    fill(history, allowed(1), closed(1), allowed(1), closed(1))

    (row,) = history.egress()
    assert (row.closed, row.bytes_received) == (1003.0, 9000)


def test_connections_of_a_dead_egress_are_closed_when_the_next_speaks(history: History) -> None:
    fill(history, allowed(1), decided(2), decided(1, epoch="e2"))

    rows = {(row.epoch, row.connection): row.closed for row in history.egress()}
    assert rows == {("e1", 1): 1001.0, ("e1", 2): None, ("e2", 1): None}
    assert history.last_egress() == ("e2", 1)


@pytest.mark.parametrize(
    ("wanted", "connections"),
    [
        pytest.param(ConnectionFilter(), [5, 4, 3, 2, 1], id="everything, newest first"),
        pytest.param(ConnectionFilter(limit=2), [5, 4], id="limit"),
        pytest.param(ConnectionFilter(before_id=3), [2, 1], id="next page"),
        pytest.param(ConnectionFilter(backend="time"), [3], id="backend"),
        pytest.param(ConnectionFilter(decision="allow"), [2], id="decision"),
        pytest.param(ConnectionFilter(reason="direct_attempt"), [5, 4], id="reason"),
        pytest.param(ConnectionFilter(via="dns"), [5], id="via"),
        pytest.param(ConnectionFilter(host="evil.example", tool="fetch"), [1], id="host and tool"),
        pytest.param(ConnectionFilter(text="GITHUB"), [2], id="text in a host, in any case"),
        pytest.param(ConnectionFilter(text="198.51.100"), [4], id="text in a destination"),
        pytest.param(ConnectionFilter(text="' OR 1=1 --"), [], id="text is only text"),
        pytest.param(ConnectionFilter(since=1004.0, until=1005.0), [4], id="time"),
        pytest.param(ConnectionFilter(tool="%"), [], id="no wildcard in a tool"),
    ],
)
def test_connections_are_filtered(history: History, wanted: ConnectionFilter, connections: list[int]) -> None:
    fill(
        history,
        decided(1, calls=(call_ref(), call_ref(tool="other_tool"))),
        allowed(2),
        decided(3, backend="time"),
        decided(4, via=Via.DIRECT, host="", destination="198.51.100.9:443", reason=Reason.DIRECT_ATTEMPT),
        looked_up(5, "pool.ntp.org"),
    )

    assert [row.connection for row in history.egress(wanted)] == connections


def test_search_finds_a_host_by_a_part_of_it(history: History) -> None:
    fill(history, decided(1), allowed(2))

    assert [row.host for row in history.search("evil")] == ["evil.example"]


def test_top_counts_connections_denials_and_bytes(history: History) -> None:
    fill(history, decided(1), decided(2), allowed(3), closed(3), looked_up(4, "x.example"))

    first, second = history.top(By.HOST)
    assert (first.name, first.connections, first.denied) == ("evil.example", 2, 2)
    assert (second.name, second.denied, second.bytes_received) == ("api.github.com", 0, 9000)
    assert [row.name for row in history.top(By.REASON, decision="deny")] == ["host_not_allowed"]
    assert history.top(By.BACKEND, backend="nobody") == []
    assert history.top(By.RULE, limit=1)[0].name == "api.github.com"


def test_an_open_connection_shows_what_it_has_moved(history: History) -> None:
    fill(history, allowed(), moved())
    (row,) = history.search("github")
    assert (row.bytes_sent, row.bytes_received, row.closed, row.time) == (400, 8000, None, allowed().time)
    fill(history, closed())
    (row,) = history.search("github")
    assert (row.bytes_sent, row.closed) == (500, closed().time)


def test_kernel_refused_attempts_count_with_their_number(history: History) -> None:
    attempt = {"phase": Phase.COUNTED, "host": "", "via": Via.DIRECT, "reason": Reason.DIRECT_ATTEMPT}
    fill(history, decided(0, seq=1, count=3, **attempt), decided(0, seq=2, count=4, **attempt))

    (row,) = history.top(By.BACKEND)
    assert row.connections == 7


def test_blocked_groups_denials_by_backend_host_and_port(history: History) -> None:
    fill(
        history,
        decided(1, detail="old", calls=(call_ref(),)),
        decided(2, detail="new", reason=Reason.PORT_NOT_ALLOWED),
        decided(3, port=80),
        decided(4, via=Via.DIRECT, host="", destination="198.51.100.9:5432", port=5432),
        allowed(5),
        looked_up(6, "pool.ntp.org"),
    )

    direct, plain, tls = history.blocked()
    assert (direct.host, direct.port, direct.via) == ("198.51.100.9", 5432, ("direct",))
    assert (plain.host, plain.port, plain.count) == ("evil.example", 80, 1)
    assert (tls.count, tls.first, tls.last, tls.detail) == (2, 1001.0, 1002.0, "new")
    assert (tls.reasons, tls.tools) == (("host_not_allowed", "port_not_allowed"), ("fetch",))
    assert history.blocked(backend="nobody") == []
    assert [group.port for group in history.blocked(since=1004.0)] == [5432]


def test_lookups_list_names_that_were_never_asked_of_the_proxy(history: History) -> None:
    fill(
        history,
        looked_up(1, "api.github.com"),
        allowed(2),
        looked_up(3, "db.example"),
        looked_up(4, "db.example", method="AAAA"),
        decided(5, via=Via.DIRECT, host="", destination="127.0.0.2:443", reason=Reason.DIRECT_ATTEMPT),
        looked_up(6, "api.github.com", backend="time"),
    )

    time_, fetch = history.lookups()
    assert (time_.backend, time_.host) == ("time", "api.github.com")
    assert (fetch.host, fetch.count, fetch.types, fetch.direct_attempts) == ("db.example", 2, ("A", "AAAA"), 1)
    assert history.lookups(backend="fetch") == [fetch]


def test_rows_and_days_are_bounded(path: Path) -> None:
    history = History(path, max_rows=10, max_days=1.0, now=lambda: 90_000.0)
    fill(history, decided(1), *(decided(n, time=80_000.0) for n in range(2, 40)))
    history.close()

    history = History(path, max_rows=10, max_days=1.0, now=lambda: 90_000.0)
    assert [row.connection for row in history.egress()] == list(range(39, 29, -1))
    assert len(history.events()) == 10
    history.close()
    history = History(path, max_days=1.0, now=lambda: 200_000.0)
    assert history.flush()
    assert history.events() == []
    history.close()


def test_events_beyond_the_queue_are_counted_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, told = threading.Event(), list[int]()
    write = History._write
    monkeypatch.setattr(History, "_write", lambda self, db, batch: (gate.wait(60), write(self, db, batch)))
    history = History(path, queue_size=2, on_drop=told.append)
    for item in numbered(*(decided(n) for n in range(1, 9))):
        history.record(item)
    gate.set()
    history.close()

    assert history.dropped >= 5
    assert sum(told) == history.dropped
    assert len(history.events()) == 8 - history.dropped


def test_text_that_is_no_unicode_is_kept_and_stops_nothing(history: History) -> None:
    odd = "\ud800'; DROP TABLE events; --\x00"
    fill(history, decided(1, detail=odd, host=odd, calls=(call_ref(tool=odd, request_id=odd),)), decided(2))

    assert history.dropped == 0
    assert [row.connection for row in history.egress()] == [2, 1]
    assert history.events()[0].event.detail == odd
    assert history.blocked()[1].host.startswith("?'; DROP")


def test_a_batch_that_cannot_be_written_is_counted_and_the_next_is_kept(
    history: History, caplog: pytest.LogCaptureFixture
) -> None:
    fill(history, decided(1, bytes_sent=2**70))
    fill(history, decided(2), first=2)

    assert history.dropped == 1
    assert [row.connection for row in history.egress()] == [2]
    assert "1 events were not kept" in caplog.text


def test_events_after_closing_count_as_lost(history: History) -> None:
    history.close()
    history.record(numbered(decided())[0])

    assert history.dropped == 1


def test_a_damaged_file_is_put_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database at all" * 100)

    history = History(path, now=lambda: NOW)
    fill(history, decided(1))

    assert [item.id for item in history.newest()] == [1]
    assert path.with_name("history.db.damaged").read_bytes().startswith(b"not a database")
    assert "history.db.damaged" in caplog.text
    history.close()


@pytest.mark.parametrize("new", [True, False])
def test_a_disk_that_takes_nothing_is_no_damage(path: Path, new: bool) -> None:
    """A limit of the size of files stands for it: the file's second page finds no room."""
    if not new:
        History(path, now=lambda: NOW).close()
    kept = path.read_bytes() if path.exists() else b""
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
    program = (
        f"{limited} from pathlib import Path; from observability.store import History; History(Path(sys.argv[1]))"
    )
    ended = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, timeout=60)
    assert f"OSError: The history {path} cannot be written: " in ended.stderr
    assert not path.with_name("history.db.damaged").exists()
    assert path.read_bytes() == kept or new


def test_the_file_is_for_its_owner_only(history: History, path: Path) -> None:
    fill(history, decided(1))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.with_name("history.db-wal").stat().st_mode & 0o777 == 0o600


_VICTIM = """
import sys
from pathlib import Path
from observability.store import History
from tests.observability.samples import allowed, numbered

history = History(Path(sys.argv[1]), now=lambda: 2000.0)
number = 0
while True:
    number += 1
    history.record(numbered(allowed(number), first=number)[0])
    if number % 100 == 0 and history.flush():
        print(number, flush=True)
"""


def test_what_was_committed_survives_kill_9_in_the_middle_of_writing(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _VICTIM, str(path)], stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        committed = [int(victim.stdout.readline()) for _ in range(10)][-1]
        os.kill(victim.pid, signal.SIGKILL)
    assert victim.returncode == -signal.SIGKILL

    history = History(path, now=lambda: NOW)
    last = history.newest(1)[0].id
    assert last >= committed
    assert [item.id for item in history.events(limit=5000)] == list(range(1, last + 1))
    assert history.last_egress() == ("e1", last * 2 - 1)
    fill(history, decided(last + 1, decision=Decision.DENY), first=last + 1)
    assert history.newest(1)[0].id == last + 1
    history.close()
