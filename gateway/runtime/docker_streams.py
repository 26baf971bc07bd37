"""What the Docker Engine tells bit by bit: the progress of a build, the changes of containers, the lines of a log."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from .base import Change, ContainerChange, LogLine
from .docker_attach import printable
from .errors import BuildError

ACTIONS: Final = {"start": Change.STARTED, "die": Change.DIED, "destroy": Change.REMOVED}


def follow_build(
    stream: Iterator[Mapping[str, Any]], say: Callable[[str], object], abandoned: threading.Event
) -> None:
    """Reads a build's progress. Raises BuildError with all that was printed, when it fails."""
    printed: list[str] = []
    partial = error = ""
    for chunk in stream:  # to its end, also after an error: only then is the connection given back
        if abandoned.is_set():
            return
        if text := chunk.get("stream"):
            *lines, partial = f"{partial}{text}".split("\n")
            printed += [printable(line) for line in lines if line.strip()]
            del printed[:-200]
            say(str(text).rstrip())
        if "error" in chunk:
            error = str(chunk["error"])
    if error:
        raise BuildError("\n".join([*printed, printable(partial), error]))


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


def log_line(line: str) -> LogLine:
    """One line of the engine's log, which begins with its time."""
    stamp, _, text = line.partition(" ")
    try:
        when = datetime.fromisoformat(stamp[:26].rstrip("Z") + "+00:00").timestamp()
    except ValueError:
        when, text = 0.0, line
    return LogLine(time=when, stream="stdout", text=printable(text))
