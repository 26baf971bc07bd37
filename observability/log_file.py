"""The log of a gateway in the background: a file that rotates, so that logged events cannot fill the disk.

What is printed past `logging` (the interpreter's own traceback when the process crashes) goes into the same file: its
descriptor stands in for standard output and standard error. It counts too, at the next line that is logged.
"""

from __future__ import annotations

import os
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

from observability.logs import LineHandler

MAX_BYTES: Final = 8 * 1024 * 1024
KEPT: Final = 4
"""Earlier files that are kept: `gateway.log.1` is the newest of them."""


class RotatingLog(LineHandler, RotatingFileHandler):
    """Appends to a file (mode 0600) of at most `max_bytes`, by one line or batch of lines; then begins another."""

    def __init__(
        self, path: Path, *, max_bytes: int = MAX_BYTES, kept: int = KEPT, captured: tuple[int, ...] = (1, 2)
    ) -> None:
        """`captured` are the descriptors that stand for the file from now on. Raises OSError."""
        self._captured = captured
        super().__init__(path, maxBytes=max_bytes, backupCount=kept)

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        for captured in self._captured:
            os.dup2(descriptor, captured)
        return os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace")

    def before_lines(self) -> None:
        if self.shouldRollover(None):
            self.doRollover()

    def shouldRollover(self, record: object) -> bool:  # the library's name
        """Looks at the size alone: to know the line's length would mean to format it twice."""
        if self.stream is None:
            self.stream = self._open()
        return os.fstat(self.stream.fileno()).st_size >= self.maxBytes

    def move(self, path: Path) -> None:
        """Goes on as `path`. What an earlier process left there is kept as if it had been rotated. Raises OSError."""
        self.acquire()
        try:
            earlier = [f"{self.baseFilename}.{number}" for number in range(self.backupCount, 0, -1)]
            pieces = [Path(name) for name in [*earlier, self.baseFilename]]
            self.baseFilename = str(path)
            for piece in pieces:
                if piece.exists():
                    self._take_over(piece, path)
        finally:
            self.release()

    def _take_over(self, piece: Path, path: Path) -> None:
        if path.exists():
            self.doRollover()
        piece.replace(path)
        if self.stream is not None:
            self.stream.close()
        self.stream = self._open()
