"""The canonical lines of the log, written in batches by a thread of their own (`observability.logs` says what is in them).

Theory of operation. `record` queues an event; the thread formats what is queued and writes it at once. So the log is up to
`event_queue.LINGER_S` behind, and lines of other loggers may stand before an event that was earlier: each line has its time.
A process that is killed loses what is queued; the history, which has the same events, is a tenth of a second behind too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from observability.event_queue import EventQueue
from observability.events import CallEvent, EgressEvent, Sequenced
from observability.logs import LineHandler, event_logger, event_record, has_line, severity


class EventLog:
    """Writes events as lines to the handlers of the root logger. `close` writes what is queued."""

    def __init__(self, *, queue_size: int = 20_000, on_drop: Callable[[int], None] | None = None) -> None:
        """`on_drop(count)` is called for events that were lost because the log was too slow."""
        self._queue = EventQueue(queue_size)
        self._on_drop = on_drop
        self._writer = threading.Thread(target=self._write_all, name="event log", daemon=True)
        self._writer.start()

    def record(self, item: Sequenced) -> None:
        """The hub's sink: queues the event. Never blocks."""
        if has_line(item.event) and not self._queue.put(item) and self._on_drop is not None:
            self._on_drop(1)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Waits until everything recorded before is written; False when that took longer than `timeout_s`."""
        return not self._writer.is_alive() or self._queue.flushed().wait(timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Writes what is queued and stops the thread; waits at most `timeout_s`."""
        self._queue.close()
        self._writer.join(timeout_s)

    def _write_all(self) -> None:
        self._queue.drain(lambda batch: write([item.event for item in batch if has_line(item.event)]))


def write(events: Sequence[EgressEvent | CallEvent]) -> None:
    """Log a line for each of them, through the root logger's handlers. Blocks on what they write to."""
    records = [event_record(event) for event in events if event_logger.isEnabledFor(severity(event))]
    for handler in logging.getLogger().handlers:
        if isinstance(handler, LineHandler):
            handler.emit_all(records)
            continue
        for record in records:
            if record.levelno >= handler.level:
                handler.handle(record)
