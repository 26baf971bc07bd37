"""The log's lines of events, which a thread writes in batches."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from observability.event_log import EventLog
from observability.events import Sequenced
from observability.log_file import RotatingLog
from observability.logs import configure
from tests.observability.samples import called, decided, moved


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


class Counting(io.StringIO):
    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)


def record(log: EventLog, *events: object) -> None:
    for number, event in enumerate(events, 1):
        log.record(Sequenced(id=number, event=event))  # type: ignore[arg-type]


def test_many_lines_are_one_write_and_in_order() -> None:
    stream = Counting()
    configure(as_json=False, stream=stream)
    log = EventLog()
    record(log, *(called(request_id=str(number)) for number in range(300)), moved())
    log.close()
    lines = stream.getvalue().splitlines()
    assert [line.partition("jsonrpc.request.id=")[2].split()[0] for line in lines] == [str(one) for one in range(300)]
    assert stream.writes < 10


def test_a_line_has_the_time_of_its_event() -> None:
    stream = io.StringIO()
    configure(as_json=False, stream=stream)
    log = EventLog()
    record(log, called(time=1_700_000_000.25))
    assert log.flush()
    assert stream.getvalue().startswith("2023-11-14T22:13:20.250Z ")
    log.close()


def test_a_level_above_leaves_lines_out() -> None:
    stream = io.StringIO()
    configure(as_json=False, stream=stream, level=logging.WARNING)
    log = EventLog()
    record(log, called(), decided())
    log.close()
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["WARNING"]


def test_a_stream_that_is_gone_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    stream = io.StringIO()
    configure(as_json=False, stream=stream)
    log = EventLog()
    stream.close()
    record(log, called())
    assert log.flush()
    logging.getLogger().handlers[0].setStream(second := io.StringIO())  # type: ignore[attr-defined]
    record(log, called())
    log.close()
    assert len(second.getvalue().splitlines()) == 1


def test_handlers_of_other_libraries_get_each_line(caplog: pytest.LogCaptureFixture) -> None:
    log = EventLog()
    with caplog.at_level(logging.INFO):
        record(log, called(), decided())
        assert log.flush()
    log.close()
    assert [one.getMessage() for one in caplog.records] == ["stockade.mcp.call", "stockade.egress.connection"]


def test_events_that_do_not_fit_are_counted() -> None:
    lost: list[int] = []
    log = EventLog(queue_size=5, on_drop=lost.append)
    log.close()
    record(log, called(), moved())
    assert lost == [1], "a line that the log does not have is no loss"


def test_the_file_rotates_between_batches_and_loses_no_line(tmp_path: Path) -> None:
    path = tmp_path / "gateway.log"
    handler = RotatingLog(path, max_bytes=2_000, kept=50, captured=())
    configure(as_json=False, handler=handler)
    log = EventLog()
    for number in range(40):
        record(log, called(request_id=f"n{number}"))
        assert log.flush()
    log.close()
    handler.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) > 2
    text = "".join(one.read_text() for one in files)
    assert all(f"jsonrpc.request.id=n{number} " in text for number in range(40))
