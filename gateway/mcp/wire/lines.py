"""Finds the messages in a backend's standard output, whatever else it writes there.

Theory of operation. A message is a JSON object on one line, so a line that does not begin with `{` is none. Those lines
are passed over by a search for the next brace in the whole chunk, not one by one: a flood of short lines costs no more than
any other bytes. A line that is no message is not kept, however long it is. One that may be a message and is longer than
the limit is dropped as it comes, except for its two ends, which may show the call that it answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_MESSAGE: Final = re.compile(rb"\n(?:\xef\xbb\xbf)?[ \t\r]*\{")
_BEGIN: Final = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r]*\{")
_BLANK: Final = re.compile(rb"[ \t\r\xef\xbb\xbf]*")
_MAX_BLANK: Final = 1024
"""Blanks that may precede a message, where they come in pieces."""
_EDGE: Final = 256


@dataclass(frozen=True, slots=True)
class Overlong:
    """A line that is not parsed, for its size or its contents."""

    head: bytes
    tail: bytes
    size: int


def ends_of(line: bytes) -> Overlong:
    """The part of an unparsed line that is remembered."""
    return Overlong(line[:_EDGE], line[-_EDGE:], len(line))


class Lines:
    """Takes chunks and returns the lines that may be messages."""

    def __init__(self, limit: int) -> None:
        self._garbage = self._wasted = 0
        self._limit = limit
        self._part = bytearray()
        self._skipping = False
        """Inside a line that is no message, or too long for one."""
        self._long: Overlong | None = None

    def feed(self, chunk: bytes) -> Iterator[bytes | Overlong]:
        """The lines that the chunk completes."""
        if self._part or self._skipping:
            end = chunk.find(b"\n")
            if end < 0:
                self._grow(chunk)
                return
            self._grow(chunk[:end])
            yield from self._end()
            text = chunk[end:]
        else:
            text = b"\n" + chunk
        at, last = 0, text.rfind(b"\n")
        while (begin := _next_message(text, at, last)) >= 0:
            self._pass_over(text[at:begin])
            at = text.find(b"\n", begin)
            yield text[begin:at]
        self._pass_over(text[at : last + 1])
        self._grow(text[last + 1 :])

    def tally(self) -> tuple[int, int]:
        """(non-empty lines that were no messages, bytes that belonged to no message) since the last call."""
        counts = self._garbage, self._wasted
        self._garbage = self._wasted = 0
        return counts

    def _pass_over(self, between: bytes) -> None:
        """Skip lines that are no messages."""
        if len(between) > 1:
            self._wasted += len(between)
            if not between.isspace():
                self._garbage += max(1, between.count(b"\n") - 1)

    def _grow(self, piece: bytes) -> None:
        """Add to a line whose end has not come yet."""
        if self._skipping:
            self._wasted += len(piece)
            if (long := self._long) is not None:
                self._long = Overlong(long.head, (long.tail + piece)[-_EDGE:], long.size + len(piece))
            return
        self._part += piece
        if _BEGIN.match(self._part) is None:
            if len(self._part) > _MAX_BLANK or not _BLANK.fullmatch(self._part):
                self._skipping = True
                self._part.clear()
        elif len(self._part) > self._limit:
            self._skipping = True
            self._long = ends_of(bytes(self._part))
            self._part.clear()

    def _end(self) -> Iterator[bytes | Overlong]:
        """The unfinished line is complete."""
        if self._long is not None:
            yield self._long
        elif self._skipping:
            self._garbage += 1
        elif _BEGIN.match(self._part):
            yield bytes(self._part)
        self._skipping, self._long = False, None
        self._part.clear()


def _next_message(text: bytes, at: int, last: int) -> int:
    """Where the next line begins that begins with a brace; -1 for nowhere. `text[at]` and `text[last]` are line ends."""
    brace = text.find(b"{", at, last)
    if brace < 0:
        return -1
    begin = text.rfind(b"\n", at, brace) + 1
    if _BLANK.fullmatch(text, begin, brace):
        return begin
    found = _MESSAGE.search(text, text.find(b"\n", brace), last)  # slower where lines are short, quick over braces
    return found.start() + 1 if found is not None else -1
