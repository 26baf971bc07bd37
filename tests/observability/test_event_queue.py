"""Events that wait for a thread that writes them."""

from __future__ import annotations

import threading
import time

from observability.event_queue import EventQueue
from observability.events import Sequenced
from tests.observability.samples import called


def item(number: int, backend: str = "fetch") -> Sequenced:
    return Sequenced(id=number, event=called(backend=backend))


class Writer:
    """Takes until the end; how many events each time."""

    def __init__(self, queue: EventQueue) -> None:
        self.taken: list[int] = []
        self.queue = queue
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        more = True
        while more:
            events, flushes, more = self.queue.take()
            self.taken.append(len(events))
            for flush in flushes:
                flush.set()

    def lingers(self) -> None:
        until = time.monotonic() + 30
        while not self.queue._lingering and time.monotonic() < until:
            time.sleep(0.001)
        assert self.queue._lingering


def test_events_in_a_row_are_taken_together() -> None:
    queue = EventQueue(1000, linger_s=3600)
    writer = Writer(queue)
    queue.put(item(1))
    writer.lingers()
    for number in range(2, 101):
        assert queue.put(item(number))
    assert queue.flushed().wait(30)
    assert writer.taken == [100]


def test_the_writer_is_not_woken_for_each_event() -> None:
    queue = EventQueue(1000, linger_s=3600)
    writer = Writer(queue)
    queue.put(item(1))
    writer.lingers()
    woken: list[int] = []
    queue._changed.notify = lambda: woken.append(1)  # type: ignore[method-assign,misc,assignment]
    for number in range(2, 500):
        queue.put(item(number))
    assert woken == []
    del queue._changed.notify
    queue.close()
    writer.thread.join(30)
    assert writer.taken == [499]


def test_a_queue_that_fills_is_taken_early() -> None:
    queue = EventQueue(100, linger_s=3600)
    writer = Writer(queue)
    queue.put(item(0))
    writer.lingers()
    for number in range(1, 51):
        assert queue.put(item(number))
    until = time.monotonic() + 30
    while not writer.taken and time.monotonic() < until:
        time.sleep(0.001)
    assert writer.taken


def test_events_that_nobody_takes_are_taken_after_a_moment() -> None:
    queue = EventQueue(100, linger_s=0.01)
    queue.put(item(1))
    events, flushes, more = queue.take()
    assert (len(events), flushes, more) == (1, [], True)


def test_the_end_takes_what_is_there_and_nothing_after_it() -> None:
    queue = EventQueue(100, linger_s=3600)
    queue.put(item(1))
    queue.close()
    assert not queue.put(item(2))
    events, _, more = queue.take()
    assert (len(events), more) == (1, False)


def test_where_it_is_full_the_backend_that_made_most_gives_up_its_oldest() -> None:
    queue = EventQueue(10, linger_s=3600)
    queue.put(item(1, "quiet"))
    assert [queue.put(item(number, "loud")) for number in range(2, 13)].count(False) == 2
    queue.close()
    events, _, _ = queue.take()
    assert [one.id for one in events] == [1, *range(4, 13)]
