"""Tool definitions are pinned when they are first seen; a change is reported, and with `pin: strict` hidden."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from gateway.mcp.view.pinned_text import Difference, Wording, pieces
from gateway.mcp.wire.saver import Saver
from observability.events import Event, NoticeEvent, Severity, ToolChange, ToolEvent
from registry.model.fields import Pin

logger = logging.getLogger(__name__)

_FILE: Final = "pins.json"
_MAX_DETAIL: Final = 500
_MAX_PINNED: Final = 20_000
"""Tools of one backend that are pinned; a list has 10,000 at most."""
_MAX_EVENTS: Final = 50
"""Events about single tools, of one backend in a minute; further ones are counted in one notice."""
_MINUTE_S: Final = 60.0


def fingerprint(tool: Mapping[str, Any]) -> str:
    """A hash of a tool's whole definition."""
    text = json.dumps(tool, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Pins:
    """The pinned definitions, saved to a file if there is a directory for it."""

    def __init__(self, emit: Callable[[Event], object], directory: Path | None) -> None:
        self._emit = emit
        self._path = directory / _FILE if directory is not None else None
        self._modes: Mapping[str, Pin] = {}
        self._pinned: dict[str, dict[str, str]] = self._load()
        self._current: dict[str, dict[str, str]] = {}
        self._changed: dict[str, dict[str, str]] = {}
        self._told: dict[tuple[str, str], str] = {}
        self._words = Wording(directory)
        self._saver = Saver(self._path, "the pinned tool definitions", self._snapshot)
        self._spoken: dict[str, Spoken] = {}

    async def close(self) -> None:
        """Write what is new."""
        await self._saver.close()
        await self._words.saver.close()

    def apply(self, modes: Mapping[str, Pin]) -> None:
        """Take each backend's mode."""
        self._modes = modes

    def seen(self, backend: str, tools: Iterable[Mapping[str, Any]], *, own: bool = False) -> None:
        """A backend's tools were read; `own`: from one session's process, which can only add deviations."""
        if self._modes.get(backend, Pin.OFF) is Pin.OFF:
            return
        defined = {str(tool["name"]): tool for tool in tools}
        current = {name: fingerprint(tool) for name, tool in defined.items()}
        pinned = self._pinned.get(backend)
        if not own:
            self._current[backend] = current
        if pinned is None:
            self._pinned[backend] = dict(current)
            self._words.pin(backend, defined.values())
            self._saver.soon()
            return
        self._compare(backend, defined, current, pinned, own=own)
        if fresh := [name for name in current if name not in pinned]:
            self._add(backend, [defined[name] for name in fresh], current, pinned)
            self._forget(backend, pinned, current)
            self._saver.soon()

    def _compare(
        self,
        backend: str,
        defined: Mapping[str, Mapping[str, Any]],
        current: Mapping[str, str],
        pinned: Mapping[str, str],
        *,
        own: bool,
    ) -> None:
        changed = self._changed.setdefault(backend, {})
        for name, digest in current.items():
            if name in pinned and pinned[name] != digest:
                changed[name] = digest
                self._words.changed(backend, defined[name])
                self._tell(backend, name, digest)
            elif not own:
                changed.pop(name, None)

    def _forget(self, backend: str, pinned: dict[str, str], current: Mapping[str, str]) -> None:
        """A backend that lists other tools each time must fill neither disk nor memory. Of the tools that it no longer
        lists, the newest are dropped first, so it cannot displace older pins."""
        if len(pinned) <= _MAX_PINNED:
            return
        gone = [name for name in reversed(pinned) if name not in current][: len(pinned) - _MAX_PINNED]
        changed = self._changed.get(backend, {})
        for name in gone:
            del pinned[name]
            changed.pop(name, None)
        self._words.forget(backend, gone)
        message = f"it has listed more than {_MAX_PINNED} tools by now; the newest that are gone again were forgotten"
        self._notice(backend, "pins_forgotten", message, len(gone))

    def _add(
        self, backend: str, tools: list[Mapping[str, Any]], current: Mapping[str, str], pinned: dict[str, str]
    ) -> None:
        """Tools that the backend did not have before."""
        strict = self._modes[backend] is Pin.STRICT
        for tool in tools:
            name = str(tool["name"])
            pinned[name] = "" if strict else current[name]
            if strict:
                self._changed.setdefault(backend, {})[name] = current[name]
                self._words.changed(backend, tool)
                self._tell(backend, name, current[name])
            else:
                self._event(backend, name, ToolChange.ADDED, "the server has a tool it did not have before")
        if not strict:
            self._words.pin(backend, tools)

    def _tell(self, backend: str, name: str, digest: str) -> None:
        if self._told.get((backend, name)) == digest:
            return
        if len(self._told) >= _MAX_PINNED:
            self._told.clear()
        self._told[backend, name] = digest
        if self._modes[backend] is Pin.STRICT:
            why = f"its definition is not the pinned one: hidden until `stockade tools approve {backend} {name}`"
            self._event(backend, name, ToolChange.HIDDEN, why)
        else:
            self._event(backend, name, ToolChange.CHANGED, "its definition is not the pinned one any more")

    def _event(self, backend: str, tool: str, change: ToolChange, detail: str) -> None:
        """Report one tool; where there are too many, report that once."""
        spoken = self._spoken.setdefault(backend, Spoken())
        if spoken.may(time.monotonic()):
            detail = detail[:_MAX_DETAIL]
            self._emit(ToolEvent(time=time.time(), backend=backend, tool=tool, change=change, detail=detail))
        elif spoken.skipped == 1:
            message = f"more than {_MAX_EVENTS} of its tools changed within a minute; the rest is not told one by one"
            self._notice(backend, "tool_changes_skipped", message)

    def _notice(self, backend: str, code: str, message: str, count: int = 1) -> None:
        self._emit(
            NoticeEvent(
                time=time.time(), source="gateway", code=code, severity=Severity.WARNING, backend=backend,
                message=message, count=count,
            )
        )  # fmt: skip

    def hidden(self, backend: str, tool: str, definition: Mapping[str, Any] | None = None) -> bool:
        """Whether the tool waits for approval: it changed, or was never listed, or `definition` is not the pinned one."""
        if self._modes.get(backend) is not Pin.STRICT:
            return False
        if tool in self._changed.get(backend, ()):
            return True
        pinned = self._pinned.get(backend)
        if pinned is None:
            return False
        return tool not in pinned or (definition is not None and pinned[tool] != fingerprint(definition))

    def differences(self, backend: str) -> list[Difference]:
        """The tools whose definitions differ from the pinned ones, with both texts."""
        return self._words.differences(backend, self._changed.get(backend, ()))

    def approve(self, backend: str, tool: str) -> None:
        """Pin the current definition. Raises KeyError for a tool that the backend does not have."""
        known = {**self._pinned.get(backend, {}), **self._current.get(backend, {})}
        digest = self._changed.get(backend, {}).pop(tool, None) or known[tool]
        self._pinned.setdefault(backend, {})[tool] = digest
        self._words.approve(backend, tool)
        self._saver.soon()
        detail = "the definition is pinned as it is now"
        self._emit(ToolEvent(time=time.time(), backend=backend, tool=tool, change=ToolChange.APPROVED, detail=detail))

    def _load(self) -> dict[str, dict[str, str]]:
        try:
            pinned = json.loads(self._path.read_text()) if self._path is not None else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            logger.warning("the pinned tool definitions cannot be read, so they are pinned again: %s", error)
            return {}
        return pinned if isinstance(pinned, dict) else {}

    def _snapshot(self) -> Callable[[], Iterator[str]]:
        kept = {backend: dict(tools) for backend, tools in self._pinned.items()}
        return lambda: pieces(kept)


class Spoken:
    """How many events about one backend's tools were emitted in this minute."""

    __slots__ = ("_count", "_since", "skipped")

    def __init__(self) -> None:
        self._since = float("-inf")
        self._count = 0
        self.skipped = 0

    def may(self, now: float) -> bool:
        """Whether one more may be reported."""
        if now - self._since >= _MINUTE_S:
            self._since, self._count, self.skipped = now, 0, 0
        self._count += 1
        self.skipped += self._count > _MAX_EVENTS
        return self._count <= _MAX_EVENTS
