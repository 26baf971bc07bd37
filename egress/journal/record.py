"""The event stream of the egress: numbered, bounded, never in the way.

Theory of operation
-------------------
Every event gets the next sequence number and is kept as one JSON line, the last `capacity` of them. A reader (the
gateway) has a cursor, the number up to which it has read; one that is too slow or away loses lines, which it sees by
the missing numbers, and it learns how many were lost, by backend. The newest number also stands in a small mapped
file, so that the gateway can see without a system call whether it has read everything.

Backends share the room: one that has more than an equal part loses its oldest events first. So a backend that floods
pushes out its own events and those of no other.

Which events a connection makes:

* denied: one, `decided` with decision `deny`;
* carried: `decided` (`allow`, or `report` when enforcing would have denied it) and, always, `closed` with the
  same decision, the bytes and, when it did not end by itself, the reason (`connect_failed`, `idle_timeout`,
  `policy_revoked`, …).

* open for long: `progress` every 15 s while bytes move, each with what was reported before.

So `decided` minus `closed` of the carried ones is what is open now.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

from observability.event_json import to_json
from observability.events import Severity, notice

RING = 8192
REMEMBERED = 32 * 1024
"""The backend of that many events is known, even of those that were dropped."""
SCAN = 2048
"""Numbers that are looked up for one `read`."""
MAX_HOST = 253
MAX_DETAIL = 400

encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, check_circular=False).encode
pack_seq = struct.Struct("<Q").pack_into


class Recorder:
    """Numbers events, keeps the latest, and notifies the reader."""

    def __init__(
        self,
        *,
        epoch: str,
        capacity: int = RING,
        seq_file: Path | None = None,
        log: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.epoch = epoch
        self.capacity = capacity
        self.seq = 0
        self.connections = 0
        self.lines: dict[int, str] = {}
        """Retained events, by number."""
        self.held: dict[str, deque[int]] = {}
        """The numbers that each backend has in `lines`, oldest first."""
        self.whose: list[str] = [""] * REMEMBERED
        self.log = log
        self.clock = clock
        self.on_event: Callable[[], None] | None = None
        """Called after each event while a reader is there."""
        self.mapped = map_sequence(seq_file) if seq_file else None

    @property
    def oldest(self) -> int:
        """The lowest retained number (1 when there is none)."""
        return min((numbers[0] for numbers in self.held.values()), default=1)

    def number_connection(self) -> int:
        """A new number that joins the events of one connection."""
        self.connections += 1
        return self.connections

    def write(self, line: str, *, log: bool, backend: str = "") -> None:
        """Number and keep one event of that backend, given as the JSON text of what `to_json` would make."""
        self.seq += 1
        self.keep(line, backend)
        if self.mapped is not None:
            pack_seq(self.mapped, 0, self.seq)
        if log and self.log is not None:
            self.log(line)
        if self.on_event is not None:
            self.on_event()

    def keep(self, line: str, backend: str) -> None:
        """Keep the newest line, and drop an old one where there is no room."""
        self.whose[self.seq % REMEMBERED] = backend
        self.lines[self.seq] = line
        numbers = self.held.get(backend)
        if numbers is None:
            numbers = self.held[backend] = deque()
        numbers.append(self.seq)
        if len(self.lines) <= self.capacity:
            return
        if len(numbers) * len(self.held) <= self.capacity:  # it has no more than its part, so another has
            backend, numbers = max(self.held.items(), key=lambda item: len(item[1]))
        del self.lines[numbers.popleft()]
        if not numbers:
            del self.held[backend]

    def notice(
        self, code: str, message: str, *, severity: Severity = Severity.INFO, backend: str = "", count: int = 1
    ) -> None:
        """Record a notice about the egress itself."""
        event = notice("egress", code, message, severity, backend=backend, count=count, at=self.clock())
        self.write(encode(to_json(event)), log=True, backend=backend)

    def read(self, after: int, most: int = 256) -> tuple[list[str], int, dict[str, int]]:
        """Lines after number `after`: (wire lines, the last number looked at, how many were lost, by backend).

        Of losses that are too long ago to know, the backend is empty.
        """
        lines: list[str] = []
        lost: Counter[str] = Counter()
        unknown = min(self.oldest, self.seq - REMEMBERED + 1) - after - 1
        if unknown > 0:
            lost[""] = unknown
            after += unknown
        for number in range(after + 1, min(self.seq, after + max(SCAN, most)) + 1):
            line = self.lines.get(number)
            if line is not None:
                lines.append(f'{{"seq":{number},"event":{line}}}\n')
            else:
                lost[self.whose[number % REMEMBERED] if number > self.seq - REMEMBERED else ""] += 1
            after = number
            if len(lines) == most:
                break
        return lines, after, dict(lost)

    def close(self) -> None:
        if self.mapped is not None:
            self.mapped.close()
            self.mapped = None


def map_sequence(path: Path) -> mmap.mmap:
    """Map the 8 bytes (little-endian) that hold the newest sequence number, set to 0. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.ftruncate(fd, 8)
        mapped = mmap.mmap(fd, 8)
    finally:
        os.close(fd)
    pack_seq(mapped, 0, 0)
    return mapped
