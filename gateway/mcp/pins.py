"""Tool definitions are pinned when they are first seen; a change is told, and with `pin: strict` hidden."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from gateway.mcp.wording import Difference, Wording
from observability.events import Event, ToolChange, ToolEvent
from registry.fields import Pin

logger = logging.getLogger(__name__)

_FILE: Final = "pins.json"
_MAX_DETAIL: Final = 500
_MAX_PINNED: Final = 20_000


def fingerprint(tool: Mapping[str, Any]) -> str:
    """A hash of all that a tool's definition says."""
    text = json.dumps(tool, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Pins:
    """The pinned definitions, kept in a file where there is a directory for it."""

    def __init__(self, emit: Callable[[Event], object], directory: Path | None) -> None:
        self._emit = emit
        self._path = directory / _FILE if directory is not None else None
        self._modes: Mapping[str, Pin] = {}
        self._pinned: dict[str, dict[str, str]] = self._load()
        self._current: dict[str, dict[str, str]] = {}
        self._changed: dict[str, dict[str, str]] = {}
        self._told: dict[tuple[str, str], str] = {}
        self._words = Wording(directory)

    def apply(self, modes: Mapping[str, Pin]) -> None:
        """Take each backend's mode."""
        self._modes = modes

    def seen(self, backend: str, tools: Iterable[Mapping[str, Any]], *, own: bool = False) -> None:
        """A backend's tools were read; `own` from one session's process, which can only show more to be wrong."""
        if self._modes.get(backend, Pin.OFF) is Pin.OFF:
            return
        defined = {str(tool["name"]): tool for tool in tools}
        current = {name: fingerprint(tool) for name, tool in defined.items()}
        pinned = self._pinned.get(backend)
        self._current.setdefault(backend, {}).update(current)
        changed = self._changed.setdefault(backend, {})
        if pinned is None:
            self._pinned[backend] = dict(current)
            self._words.pin(backend, defined.values())
            self._save()
            return
        fresh = [name for name in current if name not in pinned]
        for name, digest in current.items():
            if name in pinned and pinned[name] != digest:
                changed[name] = digest
                self._words.changed(backend, defined[name])
                self._tell(backend, name, digest)
            elif not own:
                changed.pop(name, None)
        for name in fresh:
            self._added(backend, defined[name], current[name], pinned)
        if fresh:
            self._forget(pinned, current)
            self._save()

    def _forget(self, pinned: dict[str, str], current: Mapping[str, str]) -> None:
        """A backend that has other tools each time it is asked must not fill the disk: what is gone goes first."""
        if len(pinned) > _MAX_PINNED:
            for name in [name for name in pinned if name not in current]:
                del pinned[name]

    def _added(self, backend: str, tool: Mapping[str, Any], digest: str, pinned: dict[str, str]) -> None:
        name = str(tool["name"])
        if self._modes[backend] is Pin.STRICT:
            pinned[name] = ""
            self._changed[backend][name] = digest
            self._words.changed(backend, tool)
            self._tell(backend, name, digest)
        else:
            pinned[name] = digest
            self._words.pin(backend, [tool])
            self._event(backend, name, ToolChange.ADDED, "the backend has a tool it did not have before")

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
        detail = detail[:_MAX_DETAIL]
        self._emit(ToolEvent(time=time.time(), backend=backend, tool=tool, change=change, detail=detail))

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
        """The tools whose definitions are not the pinned ones, with what they said and say."""
        return self._words.differences(backend, self._changed.get(backend, ()))

    def approve(self, backend: str, tool: str) -> None:
        """Pin the definition as it is now. Raises KeyError for a tool that the backend does not have."""
        digest = self._changed.get(backend, {}).pop(tool, None) or self._current[backend][tool]
        self._pinned.setdefault(backend, {})[tool] = digest
        self._words.approve(backend, tool)
        self._save()
        self._event(backend, tool, ToolChange.APPROVED, "the definition is pinned as it is now")

    def _load(self) -> dict[str, dict[str, str]]:
        try:
            pinned = json.loads(self._path.read_text()) if self._path is not None else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            logger.warning("the pinned tool definitions cannot be read, so they are pinned anew: %s", error)
            return {}
        return pinned if isinstance(pinned, dict) else {}

    def _save(self) -> None:
        if self._path is None:
            return
        draft = self._path.with_suffix(".new")
        try:
            draft.write_text(json.dumps(self._pinned, indent=1))
            os.replace(draft, self._path)
        except OSError as error:
            logger.warning("the pinned tool definitions cannot be kept: %s", error)
