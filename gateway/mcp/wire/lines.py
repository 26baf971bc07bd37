"""Finds the messages in a backend's standard output, whatever else it writes there.

Theory of operation. A message is a JSON object on one line, so a line that does not begin with `{` is none. Those lines
are passed over by a search for the next brace in the whole chunk, not one by one: a flood of short lines costs no more than
any other bytes; their text is held until `take_stray`, of a long line only its beginning. One that may be a message and is
longer than the limit is dropped as it comes, except for its two ends, which may show the call that it answers.

Some servers write a message over several lines, indented. Where the reader of a line finds that it only begins a message, it
calls `continue_after`: then the lines that follow are taken as one, up to the brace that ends it at the left margin.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Final

_MESSAGE: Final = re.compile(rb"\n(?:\xef\xbb\xbf)?[ \t\r]*\{")
_BEGIN: Final = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r]*\{")
_BLANK: Final = re.compile(rb"[ \t\r\xef\xbb\xbf]*")
_MAX_BLANK: Final = 1024
"""Blanks that may precede a message, where they come in pieces."""
_EDGE: Final = 256
MAX_STRAY: Final = 8 * 1024
"""Bytes of a line that is no message that are kept where it comes in pieces."""
_INDENTED: Final = (b" ", b"\t", b"\r", b"")


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
        self._stray: list[bytes] = []
        self._begun: bytearray | None = None
        """The beginning of a message over several lines."""

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
        if self._begun is not None:
            at = yield from self._continue(text, at, last)
        while (begin := _next_message(text, at, last)) >= 0:
            self._pass_over(text[at:begin])
            at = text.find(b"\n", begin)
            yield text[begin:at]
            if self._begun is not None:
                at = yield from self._continue(text, at, last)
        self._pass_over(text[at : last + 1])
        self._grow(text[last + 1 :])

    def tally(self) -> tuple[int, int]:
        """(non-empty lines that were no messages, bytes that belonged to no message) since the last call."""
        counts = self._garbage, self._wasted
        self._garbage = self._wasted = 0
        return counts

    def keep(self, line: bytes) -> None:
        """A line turned out to be no message: its text is stray."""
        self._stray.append(line)

    def take_stray(self) -> list[bytes]:
        """The text that was no message since the last call: pieces of one or more lines."""
        stray, self._stray = self._stray, []
        return stray

    def rest(self) -> list[bytes]:
        """The same at the end of the output, with the line that did not end."""
        self._give_up()
        if self._part:
            self.keep(bytes(self._part))
        return self.take_stray()

    def continue_after(self, line: bytes) -> None:
        """The line that was just returned begins a message, and is not all of it."""
        self._begun = bytearray(line)

    def _continue(self, text: bytes, at: int, last: int) -> Generator[bytes | Overlong, None, int]:
        """Add lines to a message that was begun. `text[at]` and `text[last]` are line ends; returns where to go on."""
        while self._begun is not None and at < last:
            end = text.find(b"\n", at + 1)
            yield from self._add_line(text[at + 1 : end])
            at = end
        return at

    def _add_line(self, line: bytes) -> Iterator[bytes | Overlong]:
        assert self._begun is not None
        if line[:1] in _INDENTED and len(self._begun) <= self._limit:
            self._begun += b"\n" + line
        elif line.startswith(b"}"):
            whole, self._begun = bytes(self._begun), None
            yield whole + b"\n" + line
        else:
            self._give_up()
            if _BEGIN.match(line):
                yield line
            else:
                self._pass_over(b"\n" + line + b"\n")

    def _give_up(self) -> None:
        """It was no message."""
        if self._begun is not None:
            self._pass_over(b"\n" + bytes(self._begun) + b"\n")
            self._begun = None

    def _pass_over(self, between: bytes) -> None:
        """Skip lines that are no messages."""
        if len(between) > 1:
            self._wasted += len(between)
            if not between.isspace():
                self._garbage += max(1, between.count(b"\n") - 1)
                self._stray.append(between)

    def _grow(self, piece: bytes) -> None:
        """Add to a line whose end has not come yet."""
        if self._skipping:
            self._wasted += len(piece)
            if (long := self._long) is not None:
                self._long = Overlong(long.head, (long.tail + piece)[-_EDGE:], long.size + len(piece))
            elif len(self._part) < MAX_STRAY:
                self._part += piece[: MAX_STRAY - len(self._part)]
            return
        self._part += piece
        if self._begun is not None and len(self._part) <= self._limit:
            return
        if _BEGIN.match(self._part) is None:
            if len(self._part) > _MAX_BLANK or not _BLANK.fullmatch(self._part):
                self._skipping = True
                del self._part[MAX_STRAY:]
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
            self.keep(bytes(self._part))
        elif self._begun is not None:
            yield from self._add_line(bytes(self._part))
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
