"""The hub numbers events, feeds sinks and readers, and counts what a slow reader loses."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from observability.events import EgressEvent, Sequenced
from observability.hub import Hub
from tests.observability.samples import called, decided, numbered

pytestmark = pytest.mark.anyio


async def test_ids_go_on_from_the_kept_history_which_readers_find_and_sinks_do_not_see_again() -> None:
    sunk: list[Sequenced] = []
    hub = Hub(kept=numbered(decided(1), decided(2), first=40))
    hub.attach(sunk.append)

    assert [hub.publish(decided(n)).id for n in (3, 4)] == [42, 43]
    assert hub.last_id == 43
    assert [item.id for item in hub.recent(3)] == [41, 42, 43]
    assert [item.id for item in sunk] == [42, 43]


async def test_a_reader_gets_events_published_before_and_after_it_waits() -> None:
    hub = Hub()
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        with hub.subscribe() as reader:
            hub.publish(decided(1))
            assert (await anext(reader)).id == 1
            waiting = tasks.create_task(_next(reader))
            await asyncio.sleep(0)
            hub.publish(decided(2))
            assert (await waiting).id == 2


async def _next(reader: object) -> Sequenced:
    return await anext(reader)  # type: ignore[call-overload, no-any-return]


async def test_a_slow_reader_loses_its_oldest_events_and_the_loss_is_counted() -> None:
    told = list[int]()
    hub = Hub(on_drop=told.append)
    with hub.subscribe(buffer=2) as reader:
        for number in range(1, 6):
            hub.publish(decided(number))
        hub.close()

        assert [item.id async for item in reader] == [4, 5]
        assert (reader.dropped, hub.dropped, sum(told)) == (3, 3, 3)


async def test_since_id_replays_the_ring_and_counts_what_it_no_longer_has() -> None:
    hub = Hub(ring=3)
    for number in range(1, 8):
        hub.publish(decided(number))
    with hub.subscribe(since_id=2) as reader:
        hub.publish(decided(8))
        hub.close()

        assert [item.id async for item in reader] == [5, 6, 7, 8]
        assert reader.dropped == 2


async def test_since_the_last_id_replays_nothing_and_loses_nothing() -> None:
    hub = Hub(kept=numbered(decided(1), first=9))
    with hub.subscribe(since_id=9) as reader:
        hub.close()
        assert [item async for item in reader] == []
        assert reader.dropped == 0


async def test_a_reader_that_left_is_forgotten() -> None:
    hub = Hub()
    with hub.subscribe():
        assert hub.subscribers == 1
    assert hub.subscribers == 0
    hub.subscribe()  # dropped without leaving
    gc.collect()
    assert hub.subscribers == 0


async def test_closing_ends_readers_after_what_they_have_buffered() -> None:
    hub = Hub()
    reader = hub.subscribe()
    hub.publish(decided(1))
    hub.close()

    async with asyncio.timeout(60):
        assert [item.id async for item in reader] == [1]
        assert [item async for item in hub.subscribe()] == []


async def test_recent_gives_the_newest_that_match_in_order() -> None:
    hub = Hub()
    for number in range(1, 5):
        hub.publish(decided(number))
        hub.publish(called())

    assert [item.id for item in hub.recent(2, lambda event: isinstance(event, EgressEvent))] == [5, 7]
    assert [item.id for item in hub.recent(3)] == [6, 7, 8]


async def test_a_sink_that_fails_is_logged_and_the_others_still_get_the_event(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub, seen = Hub(), list[int]()

    def broken(item: Sequenced) -> None:
        raise RuntimeError("no room")

    hub.attach(broken)
    hub.attach(lambda item: seen.append(item.id))
    with caplog.at_level(logging.ERROR):
        hub.publish(decided(1))

    assert seen == [1]
    assert "no room" in caplog.text
