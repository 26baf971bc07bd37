"""Where an HTTP/1 head ends, in whatever pieces it comes.

A peer chooses how its bytes are cut, and a search that starts over with each piece costs the square of what was sent:
64 KB of lines of four bytes blocked the loop for three seconds. So a scan remembers where it stopped, looks at each
byte once, and refuses what has become too much at once and not only when the head is complete.
"""

from __future__ import annotations

from typing import Final

END: Final = b"\r\n\r\n"
MAX_HEAD: Final = 64 * 1024


class BadHead(ValueError):
    """Raised for a head that is not worth waiting for; the text says why."""


class HeadTooLarge(BadHead):
    """Raised when the head, one of its lines or their number is above its limit."""


class HeadScan:
    """Looks for the end of one head in a buffer that grows."""

    __slots__ = ("last", "lines", "max_fields", "max_line", "seen", "what")

    def __init__(self, what: str, *, max_fields: int, max_line: int = MAX_HEAD) -> None:
        """`what` is how a message names it: `request head`."""
        self.what = what
        self.max_fields = max_fields
        self.max_line = max_line
        self.seen = 0
        """Everything before it was looked at."""
        self.last = 0
        """Where the line begins that is not complete."""
        self.lines = 0
        """Complete ones, the first line included."""

    def find(self, buffer: bytes | bytearray, start: int = 0) -> int:
        """Where the empty line after the head that begins at `start` is, below 0 while it has not come."""
        return buffer.find(END, max(start, self.seen - len(END) + 1), start + MAX_HEAD)

    def check(self, buffer: bytes | bytearray, start: int = 0) -> None:
        """Look at what came since the last time, when `find` found no end. Raises BadHead."""
        if len(buffer) - start >= MAX_HEAD:
            raise HeadTooLarge(f"the {self.what} is larger than {MAX_HEAD} bytes")
        seen = max(self.seen, start)
        fresh = bytes(buffer[seen:]).removesuffix(b"\r")  # its LF may still come
        self.lines += count_lines(fresh, self.what)
        self.seen = seen + len(fresh)
        self.last = seen + fresh.rfind(b"\n") + 1 if b"\n" in fresh else max(self.last, start)
        if self.lines - 1 > self.max_fields:
            raise HeadTooLarge(f"more than {self.max_fields} header fields")
        if len(buffer) - self.last > self.max_line + 1:
            raise HeadTooLarge(f"a line of the {self.what} is longer than {self.max_line} bytes")


def count_lines(text: bytes, what: str) -> int:
    """How many lines end in `text`. Raises BadHead for a CR or LF that stands alone."""
    pairs = text.count(b"\r\n")
    if text.count(b"\n") != pairs:
        raise BadHead(f"a line of the {what} ends in a bare LF")
    if text.count(b"\r") != pairs:
        raise BadHead(f"a bare CR in the {what}")
    return pairs
