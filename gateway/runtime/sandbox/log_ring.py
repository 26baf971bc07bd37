"""The last lines that a backend printed, bounded in lines and bytes, with followers that may be slow."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Literal

from gateway.pace import Pace

MAX_LINES: Final = 2000
MAX_CHARACTERS: Final = 512 * 1024
FOLLOWER_LINES: Final = 1000
MAX_LOG_LINE: Final = 8 * 1024
"""Bytes of one line that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line that a backend printed."""

    time: float
    stream: Literal["stdout", "stderr"]
    text: str
    instance: str = ""


def printable(text: str) -> str:
    """The text without characters that steer a terminal (escape sequences of an untrusted program)."""
    if text.isprintable():
        return text
    return "".join(c if c == "\t" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


class LogRing:
    """Lines of one backend, over all its incarnations."""

    def __init__(self) -> None:
        self.lines: deque[LogLine] = deque()
        self.characters = 0
        self.followers: set[asyncio.Queue[LogLine]] = set()
        self.dropped = 0
        """Lines that were dropped because a follower was too slow."""
        self.pace = Pace()
        """The share of the loop that all containers of the backend may use together for their output."""

    def add(self, line: LogLine) -> None:
        """Takes one line in; the oldest go when there are too many."""
        self.lines.append(line)
        self.characters += len(line.text)
        while len(self.lines) > MAX_LINES or self.characters > MAX_CHARACTERS:
            self.characters -= len(self.lines.popleft().text)
        for follower in self.followers:
            try:
                follower.put_nowait(line)
            except asyncio.QueueFull:
                self.dropped += 1

    def tail(self, count: int) -> list[LogLine]:
        """The newest lines, oldest first."""
        return list(self.lines)[-count:] if count > 0 else []

    async def follow(self, tail: int) -> AsyncIterator[LogLine]:
        """The newest lines, then each new one, until the caller stops."""
        queue: asyncio.Queue[LogLine] = asyncio.Queue(FOLLOWER_LINES)
        self.followers.add(queue)
        try:
            for line in self.tail(tail):
                yield line
            while True:
                yield await queue.get()
        finally:
            self.followers.discard(queue)
