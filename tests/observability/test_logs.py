"""One canonical line per connection and call, which no hostile text can break."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from observability.event_log import write
from observability.events import BackendEvent, BackendState
from observability.logs import configure, has_line
from tests.observability.samples import allowed, call_ref, called, closed, decided, moved


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_denial_is_one_json_line_with_fixed_field_names(stream: io.StringIO) -> None:
    configure(as_json=True, stream=stream)
    write([decided(calls=(call_ref(trace_id="ab" * 16, span_id="cd" * 8),))])

    line = json.loads(stream.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "stockade.events",
        "message": "stockade.egress.connection",
        "event": "stockade.egress.connection",
        "phase": "decided",
        "stockade.backend.name": "fetch",
        "stockade.egress.decision": "deny",
        "stockade.egress.reason": "host_not_allowed",
        "server.address": "evil.example",
        "server.port": 443,
        "stockade.egress.method": "CONNECT",
        "stockade.egress.via": "proxy",
        "stockade.egress.mode": "enforce",
        "stockade.egress.connection.id": 1,
        "stockade.egress.call.certainty": "certain",
        "calls": ["cursor/7 tools/call fetch"],
        "trace_id": "ab" * 16,
        "span_id": "cd" * 8,
    }


def test_ends_and_calls_are_lines_too_and_other_events_are_not(stream: io.StringIO) -> None:
    configure(as_json=True, stream=stream)
    for event in (
        allowed(),
        closed(),
        called(error="tool_error", denied=("evil.example:443 (host_not_allowed)",)),
        BackendEvent(time=1.0, backend="fetch", state=BackendState.RUNNING),
        moved(),
    ):
        if has_line(event):
            write([event])

    beginning, end, call = map(json.loads, stream.getvalue().splitlines())
    assert (beginning["level"], beginning["phase"]) == ("info", "decided")
    assert "stockade.egress.bytes_sent" not in beginning
    assert (end["stockade.egress.bytes_sent"], end["duration_s"]) == (500, 2.0)
    assert (call["level"], call["error.type"]) == ("warning", "tool_error")
    assert call["denied"] == ["evil.example:443 (host_not_allowed)"]


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(
    "hostile", ['a"b', "a\nlevel=error", "a b=c", "\x1b[2Jx", "\u202egnp", "\u2028x", "a\\nb"], ids=ascii
)
def test_hostile_text_forges_neither_line_nor_field(stream: io.StringIO, as_json: bool, hostile: str) -> None:
    configure(as_json=as_json, stream=stream)
    write([decided(host=hostile, detail=hostile)])
    logging.getLogger("x").warning(hostile)

    lines = stream.getvalue().split("\n")
    assert len(lines) == 3
    assert stream.getvalue().isascii()
    if as_json:
        assert json.loads(lines[0])["server.address"] == hostile
        assert json.loads(lines[1])["message"] == hostile
    else:
        assert f"server.address={json.dumps(hostile)} " in lines[0]
        assert "\x1b" not in lines[0] + lines[1]


def test_text_lines_are_plain_where_values_are(stream: io.StringIO) -> None:
    configure(as_json=False, stream=stream)
    write([decided()])

    assert "WARNING stockade.egress.connection phase=decided stockade.backend.name=fetch" in stream.getvalue()


@pytest.mark.parametrize("as_json", [True, False])
def test_exceptions_are_told(stream: io.StringIO, as_json: bool) -> None:
    configure(as_json=as_json, stream=stream)
    try:
        raise ValueError("broken\x1b[2J")
    except ValueError:
        logging.getLogger("x").exception("It failed.")

    assert "ValueError: broken" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()
