"""What the Docker Engine streams: the progress of a build, the changes of containers, the lines of a log."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from gateway.runtime.engine.base import Change, ContainerChange
from gateway.runtime.sandbox.errors import BuildError
from gateway.runtime.sandbox.log_ring import LogLine, printable

KEPT_LINES: Final = 200
MAX_LINE: Final = 4000
"""Characters of one line that are kept."""
ACTIONS: Final = {"start": Change.STARTED, "die": Change.DIED, "destroy": Change.REMOVED}


class Printed:
    """The last lines that a build printed, in bounded memory and with bounded work for each character."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self.say = say
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.open: list[str] = []
        self.open_length = 0

    def take(self, text: str) -> None:
        """More of what is printed; a line may come in many pieces."""
        *ended, rest = text.split("\n")
        for piece in ended:
            self.add(piece)
            self.end_line()
        self.add(rest)

    def add(self, piece: str) -> None:
        """A piece of the line that is open; of a long line only the beginning is kept."""
        if piece and self.open_length < MAX_LINE:
            self.open.append(piece[: MAX_LINE - self.open_length])
            self.open_length += len(self.open[-1])

    def end_line(self) -> None:
        line = "".join(self.open)
        self.open, self.open_length = [], 0
        if line.strip():
            self.lines.append(printable(line))
            self.say(line.rstrip())

    def text(self) -> str:
        """What is kept, with the line that did not end."""
        return "\n".join([*self.lines, printable("".join(self.open))])


def follow_build(
    stream: Iterator[Mapping[str, Any]], say: Callable[[str], object], abandoned: threading.Event
) -> None:
    """Reads a build's progress. Raises BuildError with the last of what was printed, when it fails.

    `say` is called with each line, on the caller's thread.
    """
    printed = Printed(say)
    error = ""
    for chunk in stream:  # to its end, also after an error: only then is the connection given back
        if abandoned.is_set():
            return
        if text := chunk.get("stream"):
            printed.take(str(text))
        if "error" in chunk:
            error = str(chunk["error"])
    if error:
        raise BuildError(f"{printed.text()}\n{error[:MAX_LINE]}")


def pump_changes(stream: Iterator[Mapping[str, Any]], say: Callable[[ContainerChange | None], None]) -> None:
    """Reads the engine's events on a thread of its own."""
    try:
        for event in stream:
            if change := ACTIONS.get(str(event.get("Action"))):
                actor = event["Actor"]
                code = actor.get("Attributes", {}).get("exitCode")
                say(ContainerChange(change=change, container=actor["ID"], exit_code=int(code or 0)))
    except Exception:  # noqa: S110  # the top of a thread; however the stream ended, the watcher opens a new one
        pass
    finally:
        say(None)


def first_bytes(chunks: Iterable[bytes], most: int) -> bytes:
    """The beginning of a stream, which is read no further."""
    found = bytearray()
    for chunk in chunks:
        found += chunk
        if len(found) >= most:
            break
    return bytes(found[:most])


def log_line(line: str) -> LogLine:
    """One line of the engine's log, which begins with its time."""
    stamp, _, text = line.partition(" ")
    try:
        when = datetime.fromisoformat(stamp[:26].rstrip("Z") + "+00:00").timestamp()
    except ValueError:
        when, text = 0.0, line
    return LogLine(time=when, stream="stdout", text=printable(text))
