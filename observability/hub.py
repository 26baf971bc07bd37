"""The gateway's event hub: numbers each event, hands it to the sinks, and lets readers follow.

Theory of operation. `publish` runs on the event loop's thread and never waits. It gives the event its id, calls
each sink (metrics, history, spans, logs: short, synchronous functions), keeps the event in a bounded ring for
readers that come late, and puts it into the bounded buffer of each subscription that wants it. A reader that is too
slow loses the *oldest* events of the backend that made most (`observability.shares`); the loss is counted on the
subscription (`dropped`) and in the hub (`dropped`).
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import islice
from types import TracebackType
from typing import TypeAlias

from observability.events import Event, Sequenced
from observability.shares import FairRing

logger = logging.getLogger(__name__)

Sink: TypeAlias = Callable[[Sequenced], None]
"""Called with each event on the loop's thread; it must not block."""
Filter: TypeAlias = Callable[[Event], bool]


class Subscription:
    """A reader's place in the stream: `async for sequenced in subscription`.

    Use it as a context manager, so that the hub forgets it when the reader leaves (the hub holds it weakly, so an
    abandoned one costs nothing for long). Iteration ends when the hub closes and everything buffered was read.
    """

    def __init__(self, hub: Hub, buffer: int, accept: Filter | None) -> None:
        self._hub = hub
        self._items = FairRing(buffer)
        self._accept = accept
        self._ready = asyncio.Event()
        self._ended = False
        self.dropped = 0
        """Events this reader lost, because it was slow or asked for ids that the ring no longer has."""

    def offer(self, item: Sequenced) -> bool:
        """Puts an event in, if it is wanted; False when another had to go for it."""
        if self._accept is not None and not self._accept(item.event):
            return True
        fits = self._items.append(item)
        self.dropped += not fits
        self._ready.set()
        return fits

    def end(self) -> None:
        """No more events: the reader finishes what is buffered, then stops."""
        self._ended = True
        self._ready.set()

    def __aiter__(self) -> AsyncIterator[Sequenced]:
        return self

    async def __anext__(self) -> Sequenced:
        while not self._items:
            if self._ended:
                raise StopAsyncIteration
            self._ready.clear()
            await self._ready.wait()
        return self._items.popleft()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hub.unsubscribe(self)


class Hub:
    """Where every event of the gateway passes through."""

    def __init__(
        self, *, kept: Sequence[Sequenced] = (), ring: int = 5000, on_drop: Callable[[int], None] | None = None
    ) -> None:
        """`kept` are the newest events of the history, oldest first: ids go on from the last, and readers find
        them, but no sink sees them again. `ring` bounds `recent`; `on_drop(count)` is called for each event that a
        slow reader lost.
        """
        self._on_drop = on_drop
        self._next_id = kept[-1].id + 1 if kept else 1
        self._ring = FairRing(ring, kept)
        self._sinks: list[Sink] = []
        self._subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()
        self._closed = False
        self.dropped = 0
        """Events lost by slow readers, all together."""

    @property
    def last_id(self) -> int:
        """The id of the newest event; one less than the first id when there was none."""
        return self._next_id - 1

    @property
    def subscribers(self) -> int:
        return len(self._subscriptions)

    def attach(self, sink: Sink) -> None:
        """Adds a sink for the life of the hub. One that raises is logged; the others still get the event."""
        self._sinks.append(sink)

    def publish(self, event: Event) -> Sequenced:
        """Numbers the event and hands it to everyone. Never waits and never raises."""
        item = Sequenced(id=self._next_id, event=event)
        self._next_id += 1
        self._ring.append(item)
        for sink in self._sinks:
            self._deliver(sink, item)
        for subscription in self._subscriptions:
            if not subscription.offer(item):
                self._lost(1)
        return item

    def _lost(self, count: int) -> None:
        self.dropped += count
        if self._on_drop is not None:
            self._on_drop(count)

    def _deliver(self, sink: Sink, item: Sequenced) -> None:
        try:
            sink(item)
        except Exception:
            # The border between the stream and one consumer of it: a broken consumer must not stop the others.
            logger.exception("event %d: sink %s failed", item.id, getattr(sink, "__qualname__", sink))

    def subscribe(
        self, *, since_id: int | None = None, buffer: int = 1000, accept: Filter | None = None
    ) -> Subscription:
        """Follows the stream, from now on or from the event after `since_id`; only what `accept` takes is buffered.

        Events after `since_id` that the ring no longer holds, or that do not fit `buffer`, count as dropped.
        """
        subscription = Subscription(self, buffer, accept)
        if since_id is not None:
            self._replay(subscription, since_id)
        if self._closed:
            subscription.end()
        else:
            self._subscriptions.add(subscription)
        return subscription

    def _replay(self, subscription: Subscription, since_id: int) -> None:
        kept = [item for item in self._ring if item.id > since_id]
        subscription.dropped += max(0, self.last_id - since_id - len(kept))
        for item in kept:
            subscription.offer(item)

    def unsubscribe(self, subscription: Subscription) -> None:
        subscription.end()
        self._subscriptions.discard(subscription)

    def recent(self, n: int, accept: Filter | None = None) -> list[Sequenced]:
        """The newest `n` events in the ring that `accept` takes, oldest first."""
        newest_first: Iterable[Sequenced] = reversed(self._ring)
        if accept is not None:
            newest_first = (item for item in newest_first if accept(item.event))
        return list(islice(newest_first, n))[::-1]

    def close(self) -> None:
        """Ends every subscription. Events published later still reach the sinks."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.end()
        self._subscriptions.clear()
