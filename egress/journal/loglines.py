"""Log lines on standard output that never hold up the proxy."""

from __future__ import annotations

import os
import threading
import time
from collections import deque

PENDING = 4096
PAUSE_S = 0.05


class LineWriter:
    """Writes lines to a descriptor from a thread of its own; what does not fit the queue is counted and dropped.

    A reader of the container's log that stands still blocks that thread alone.
    """

    def __init__(self, fd: int = 1, pending: int = PENDING) -> None:
        self.fd = fd
        self.lines: deque[str] = deque()
        self.pending = pending
        self.dropped = 0
        self.wake = threading.Event()
        self.stopping = False
        self.thread = threading.Thread(target=self.run, name="log", daemon=True)
        self.thread.start()

    def write(self, line: str) -> None:
        """Queue one line (without its newline)."""
        if len(self.lines) >= self.pending:
            self.dropped += 1
            return
        self.lines.append(line)
        if not self.wake.is_set():
            self.wake.set()

    def run(self) -> None:
        while True:
            self.wake.wait()
            if not self.stopping:
                # Let a few more lines gather: one wake-up and one system call for all of them.
                time.sleep(PAUSE_S)
            self.wake.clear()
            if not self.flush() or (self.stopping and not self.lines):
                return

    def flush(self) -> bool:
        """Write everything that is queued; False when there is no reader any more."""
        taken = [self.lines.popleft() for _ in range(len(self.lines))]
        if self.dropped:
            dropped, self.dropped = self.dropped, 0
            taken.append(f'{{"kind":"log","dropped":{dropped}}}')
        data = "".join(line + "\n" for line in taken).encode()
        try:
            while data:
                data = data[os.write(self.fd, data) :]
        except OSError:
            return False
        return True

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what is queued, then stop; give up after `timeout_s`."""
        self.stopping = True
        self.wake.set()
        self.thread.join(timeout_s)
