"""The event stream: numbered, bounded, and never lost silently."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from egress.connection.dialer import Dialer
from egress.journal.attempt import Attempt
from egress.journal.loglines import LineWriter
from egress.journal.record import REMEMBERED, SCAN, Recorder
from egress.net.poller import Pollers
from egress.net.resolver import StaticResolver
from egress.service.control import Control
from egress.service.server import Egress
from gateway.runtime.inventory.egress_link import READ_AT_ONCE, EgressLink, PolicyRejected
from observability.event_json import event_from_json, to_json
from observability.events import EgressEvent, NoticeEvent, Reason, Via
from tests.observability.samples import decided


def attempt(recorder: Recorder, host: str = "a.example", backend: str = "fetch") -> Attempt:
    return Attempt(recorder, backend=backend, door=backend, via=Via.PROXY, mode="enforce", host=host, port=443)


def test_what_is_written_is_what_the_events_module_writes() -> None:
    recorder = Recorder(epoch="e")
    one = attempt(recorder, 'odd"name\\\x7f')
    one.rule, one.rule_port, one.address, one.dns_s, one.connect_s = "a.example", 443, "192.0.2.1", 0.25, 0.5
    one.allow(Reason.SNI_MISMATCH)
    one.close(Reason.IDLE_TIMEOUT, 5, 6, "why")
    attempt(recorder).deny(Reason.HOST_NOT_ALLOWED, "no")
    lines, last, lost = recorder.read(0)
    assert (last, lost, len(lines)) == (3, {}, 3)
    for line in lines:
        data = json.loads(line)["event"]
        assert to_json(event_from_json(data)) == data


def test_a_carried_connection_always_closes_and_a_denied_one_never_does() -> None:
    recorder = Recorder(epoch="e")
    denied, carried, failed = attempt(recorder), attempt(recorder), attempt(recorder)
    denied.deny(Reason.HOST_NOT_ALLOWED)
    denied.close()
    carried.allow()
    carried.close()
    carried.close()
    failed.fail(Reason.CONNECT_FAILED)
    events = [json.loads(line)["event"] for line in recorder.read(0)[0]]
    assert [(event["connection"], event["phase"]) for event in events] == [
        (1, "decided"),
        (2, "decided"),
        (2, "closed"),
        (3, "decided"),
        (3, "closed"),
    ]


def test_a_reader_that_is_too_slow_is_told_how_much_it_lost(tmp_path: Path) -> None:
    recorder = Recorder(epoch="e", capacity=4, seq_file=tmp_path / "seq")
    for _ in range(10):
        attempt(recorder).deny(Reason.HOST_NOT_ALLOWED)
    lines, last, lost = recorder.read(2)
    assert ([json.loads(line)["seq"] for line in lines], last, lost) == ([7, 8, 9, 10], 10, {"fetch": 4})
    assert recorder.read(10) == ([], 10, {})
    assert struct.unpack("<Q", (tmp_path / "seq").read_bytes()) == (10,)
    recorder.close()


def seen_of(recorder: Recorder, backend: str) -> list[str]:
    """The hosts of that backend's events that a reader gets who begins at the start."""
    lines, last, _ = recorder.read(0, 100_000)
    assert last == recorder.seq
    return [event["host"] for line in lines if (event := json.loads(line)["event"]).get("backend") == backend]


def test_what_one_backend_floods_pushes_out_its_own_events_and_nobody_elses() -> None:
    """The evidence of one is not washed away by another, whichever was first."""
    recorder = Recorder(epoch="e", capacity=100)
    attempt(recorder, "before.example", "calm").deny(Reason.HOST_NOT_ALLOWED)
    for number in range(1000):
        attempt(recorder, f"n{number}.example", "loud").deny(Reason.HOST_NOT_ALLOWED)
    attempt(recorder, "after.example", "calm").deny(Reason.HOST_NOT_ALLOWED)
    recorder.notice("memory_short", "something of our own")
    for number in range(1000, 2000):
        attempt(recorder, f"n{number}.example", "loud").deny(Reason.HOST_NOT_ALLOWED)
    assert seen_of(recorder, "calm") == ["before.example", "after.example"]
    assert seen_of(recorder, "loud") == [f"n{number}.example" for number in range(1903, 2000)]
    assert recorder.read(0, 100_000)[2] == {"loud": 1903}
    assert len(recorder.lines) == 100


def test_backends_that_all_flood_have_equal_parts() -> None:
    recorder = Recorder(epoch="e", capacity=90)
    for number in range(1000):
        attempt(recorder, backend="first").deny(Reason.HOST_NOT_ALLOWED)
        if number >= 500:
            attempt(recorder, backend="second").deny(Reason.HOST_NOT_ALLOWED)
            attempt(recorder, backend="third").deny(Reason.HOST_NOT_ALLOWED)
    assert {name: len(numbers) for name, numbers in recorder.held.items()} == {"first": 30, "second": 30, "third": 30}
    assert sorted(recorder.lines) == sorted(number for numbers in recorder.held.values() for number in numbers)


def test_a_reader_that_was_away_for_long_is_told_every_loss_in_bounded_steps() -> None:
    recorder = Recorder(epoch="e", capacity=10)
    attempt(recorder, backend="calm").deny(Reason.HOST_NOT_ALLOWED)
    for _ in range(3 * REMEMBERED):
        recorder.write("{}", log=False, backend="loud")
    lost: Counter[str] = Counter()
    read, cursor, steps = 0, 0, 0
    while cursor < recorder.seq:
        lines, last, dropped = recorder.read(cursor)
        assert 0 < last - cursor <= SCAN
        read, cursor, steps = read + len(lines), last, steps + 1
        lost.update(dropped)
    assert read == 10
    assert lost.total() + read == recorder.seq
    assert lost["loud"] >= REMEMBERED - SCAN


def test_a_log_that_nobody_reads_is_dropped_and_counted() -> None:
    reader, writer = os.pipe()
    log = LineWriter(writer, pending=10)
    for _ in range(3000):
        log.write("x" * 200)
    assert log.dropped > 0 or len(log.lines) <= 10
    os.close(reader)
    log.close()
    os.close(writer)


@asynccontextmanager
async def linked(
    recorder_size: int = 100,
) -> AsyncIterator[tuple[Egress, EgressLink, list[EgressEvent | NoticeEvent]]]:
    """An egress in this process, and a gateway's link to it over its socket."""
    events: list[EgressEvent | NoticeEvent] = []
    with tempfile.TemporaryDirectory(prefix="sk") as name:
        directory = Path(name)
        recorder = Recorder(epoch="life", capacity=recorder_size, seq_file=directory / "seq")
        link = EgressLink(directory, on_event=events.append)
        async with asyncio.TaskGroup() as tasks:
            loop = asyncio.get_running_loop()
            egress = Egress(loop, tasks, recorder, Dialer.unconfigured(StaticResolver({}), Pollers(loop)))
            control = Control(loop, egress)
            await control.listen(directory / "egress.sock")
            running = tasks.create_task(link.run())
            await link.wait_connected(5)
            yield egress, link, events
            running.cancel()
            control.close()
            egress.close()
            await asyncio.sleep(0)
        recorder.close()


@pytest.mark.anyio
async def test_the_gateway_sees_that_there_is_more_and_settles() -> None:
    async with linked() as (egress, link, events):
        assert not link.pending()
        attempt(egress.recorder).deny(Reason.HOST_NOT_ALLOWED)
        assert link.pending()
        await link.settle(5)
        assert not link.pending()
        assert [event.reason for event in events if isinstance(event, EgressEvent)] == [Reason.HOST_NOT_ALLOWED]


@pytest.mark.anyio
async def test_the_gateway_is_not_asked_of_the_hosts_ports_without_end() -> None:
    """Each question makes it read all of the host's sockets; a backend can bring them about as fast as it likes."""
    async with linked() as (egress, link, _):
        asked: list[int] = []

        async def listeners(port: int) -> str:
            asked.append(port)
            return "loopback"

        link.host_listeners = listeners
        control = egress.recorder.on_event.__self__.control  # type: ignore[union-attr]  # the gateway's end of the link
        answers = [await control.ask_host_port(3000) for _ in range(50)]
        assert (answers[0], answers[-1]) == ("loopback", "unknown")
        assert len(asked) < 10


@pytest.mark.anyio
async def test_a_gap_becomes_a_notice() -> None:
    async with linked(recorder_size=8) as (egress, link, events):
        for _ in range(100):
            attempt(egress.recorder).deny(Reason.HOST_NOT_ALLOWED)
        await link.settle(5)
        gaps = [event for event in events if isinstance(event, NoticeEvent) and event.code == "events_dropped"]
        seen = [event for event in events if isinstance(event, EgressEvent)]
        assert gaps[0].count + len(seen) == 100
        assert gaps[0].backend == "fetch"


@pytest.mark.anyio
async def test_a_flood_of_events_leaves_the_gateways_loop_its_turns() -> None:
    """A backend brings about thousands of events; between them the gateway goes on with everything else."""
    async with linked(recorder_size=5000) as (egress, link, events):
        for _ in range(2000):
            attempt(egress.recorder).deny(Reason.HOST_NOT_ALLOWED)
        most, before = 0, len(events)
        while link.pending():
            await asyncio.sleep(0)
            most, before = max(most, len(events) - before), len(events)
        assert len(events) == 2000
        assert most <= 2 * READ_AT_ONCE


@pytest.mark.anyio
async def test_what_is_missing_between_two_numbers_is_told_though_the_egress_says_nothing(tmp_path: Path) -> None:
    """Red team m11: numbers that jumped, and an event of a newer egress, were lost without a word."""
    events: list[EgressEvent | NoticeEvent] = []
    link = EgressLink(tmp_path, on_event=events.append)
    event = to_json(decided())
    link.take_event({"seq": 1, "event": event})
    link.take_event({"seq": 5, "event": event})
    link.announced += 3
    link.take_event({"seq": 8, "event": event})
    link.take_event({"seq": 11, "event": event})
    link.take_event({"seq": 12, "event": {"kind": "of the future"}})

    notices = [(one.code, one.count) for one in events if isinstance(one, NoticeEvent)]
    assert notices == [("events_dropped", 3), ("events_dropped", 1), ("events_dropped", 1)]
    assert link.seq == 12


@pytest.mark.anyio
async def test_a_bad_push_is_rejected_with_every_problem_and_holds_nothing() -> None:
    async with linked() as (egress, link, _):
        await link.push_policies({"good": {"allowed_hosts": ["a.example"]}}, {})
        with pytest.raises(PolicyRejected) as rejected:
            await link.push_policies({"bad": {"allowed_hosts": ["https://a/"], "mode": "x"}}, {})
        assert len(rejected.value.problems) == 2
        assert set(egress.backends) == {"good"}
        assert link.push is not None
        assert set(link.push.backends) == {"good"}
