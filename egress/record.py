"""The event stream of the egress: numbered, bounded, never in the way.

Theory of operation
-------------------
Every event gets the next sequence number and is written as one JSON line into a ring of fixed size. A reader
(the gateway) has a cursor into the ring; one that is too slow or away loses the oldest lines, and the number
it lost is counted and told. The newest number also stands in a small mapped file, so that the gateway can see
without a system call whether it has read everything.

Which events a connection makes:

* denied: one, `decided` with decision `deny`;
* carried: `decided` (`allow`, or `report` when enforcing would have denied it) and, always, `closed` with the
  same decision, the bytes and, when it did not end by itself, the reason (`connect_failed`, `idle_timeout`,
  `policy_revoked`, …).

* open for long: `progress` every 15 s while bytes move, each with what was `told` before.

So `decided` minus `closed` of the carried ones is what is open now.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

from observability.events import NoticeEvent, Severity, to_json

RING = 8192
MAX_HOST = 253
MAX_DETAIL = 400

encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, check_circular=False).encode
pack_seq = struct.Struct("<Q").pack_into


class Recorder:
    """Numbers events, keeps the last ones, and tells whoever listens."""

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
        self.lines: list[str] = [""] * capacity
        self.log = log
        self.clock = clock
        self.on_event: Callable[[], None] | None = None
        """Called after each event while a reader is there."""
        self.mapped = map_sequence(seq_file) if seq_file else None

    @property
    def oldest(self) -> int:
        """The lowest number still in the ring (1 while it is empty)."""
        return max(1, self.seq - self.capacity + 1)

    def number_connection(self) -> int:
        """A new number that joins the events of one connection."""
        self.connections += 1
        return self.connections

    def write(self, line: str, *, log: bool) -> None:
        """Number and keep one event, given as the JSON text of what `to_json` would make."""
        self.seq += 1
        self.lines[self.seq % self.capacity] = line
        if self.mapped is not None:
            pack_seq(self.mapped, 0, self.seq)
        if log and self.log is not None:
            self.log(line)
        if self.on_event is not None:
            self.on_event()

    def notice(
        self, code: str, message: str, *, severity: Severity = Severity.INFO, backend: str = "", count: int = 1
    ) -> None:
        """Say something about the egress itself."""
        event = NoticeEvent(
            time=self.clock(),
            source="egress",
            code=code,
            severity=severity,
            backend=backend,
            message=message,
            count=count,
        )
        self.write(encode(to_json(event)), log=True)

    def read(self, after: int, most: int = 256) -> tuple[list[str], int, int]:
        """Lines after number `after`: (wire lines, the last number read, how many were lost before them)."""
        first = max(after + 1, self.oldest)
        last = min(self.seq, first + most - 1)
        lines = [
            f'{{"seq":{number},"event":{self.lines[number % self.capacity]}}}\n' for number in range(first, last + 1)
        ]
        return lines, max(last, after), max(0, first - after - 1)

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
