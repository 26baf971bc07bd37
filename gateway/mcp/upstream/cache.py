"""What survives from one run to the next: each backend's lists and greeting, and whether it asks.

A lazy backend need not run to be listed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from gateway.mcp.call.messages import about_legacy, about_modern
from gateway.mcp.upstream.backend import Backend
from gateway.mcp.upstream.greeting import sound
from gateway.mcp.upstream.reading import cached_list
from gateway.mcp.view.listing import Kind
from gateway.mcp.wire.errors import RpcError
from gateway.mcp.wire.saver import Saver

logger = logging.getLogger(__name__)

_FILE: Final = "lists.json"
_VERSION: Final = 1
_EVERY_S: Final = 10.0
"""The file holds the lists of all backends, so it is written less often than others."""


class ListCache:
    """A file with the last lists and greeting of every backend."""

    def __init__(self, directory: Path | None) -> None:
        self._path = directory / _FILE if directory is not None else None
        self.contested: dict[str, dict[str, str]] = {}
        """The owner of each name on `/mcp` that several backends wanted (`claims.Claims.contested`)."""
        self._known: dict[str, Any] = self._load()
        self._saver = Saver(self._path, "the tool lists", self._snapshot, every_s=_EVERY_S)

    def _load(self) -> dict[str, Any]:
        try:
            document = json.loads(self._path.read_text()) if self._path is not None else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            logger.warning("the cached tool lists cannot be read: %s", error)
            return {}
        if not isinstance(document, dict) or document.get("version") != _VERSION:
            return {}
        known, contested = document.get("backends"), document.get("contested")
        self.contested = contested if isinstance(contested, dict) else {}
        return known if isinstance(known, dict) else {}

    def recall(self, backend: Backend, entry: Mapping[str, Any]) -> None:
        """Give a backend its lists and greeting from an earlier run, if it is still the same program."""
        known = self._known.get(backend.name)
        if not isinstance(known, dict) or known.get("entry") != digest(entry):
            return
        backend.homes.asks = known.get("asks") is True
        for kind in Kind:
            items = known.get("lists", {}).get(kind.value)
            if isinstance(items, list):
                backend.catalog.lists[kind] = cached_list(kind, items)
        with contextlib.suppress(RpcError):
            if isinstance(legacy := known.get("legacy"), dict):
                backend.abouts[False] = about_legacy(sound(legacy))
            if isinstance(modern := known.get("modern"), dict) and (about := about_modern(sound(modern))) is not None:
                backend.abouts[True] = about

    def note(self, backend: Backend, entry: Mapping[str, Any]) -> None:
        """Remember a backend's current lists and greeting."""
        self._known[backend.name] = {
            "entry": digest(entry),
            "asks": backend.homes.asks,
            "lists": {kind.value: listing.items for kind, listing in backend.catalog.lists.items()},
            **{("modern" if modern else "legacy"): dict(about.result) for modern, about in backend.abouts.items()},
        }
        self._saver.soon()

    def note_contested(self, contested: dict[str, dict[str, str]]) -> None:
        """Remember the owners of contested names."""
        if contested != self.contested:
            self.contested = contested
            self._saver.soon()

    async def close(self) -> None:
        """Write what is new."""
        await self._saver.close()

    def _snapshot(self) -> Callable[[], Iterator[str]]:
        contested, known = self.contested, dict(self._known)  # each entry is replaced, never changed
        return lambda: _pieces(contested, known)


def _pieces(contested: Mapping[str, Mapping[str, str]], known: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The document, item by item."""
    yield f'{{"version": {_VERSION}, "contested": {json.dumps(contested)}, "backends": {{'
    between = ""
    for name, said in known.items():
        yield f'{between}{json.dumps(name)}: {{"lists": {{'
        between, inner = ", ", ""
        for kind, items in said.get("lists", {}).items():
            yield f"{inner}{json.dumps(kind)}: ["
            inner = ", "
            for number, item in enumerate(items):
                yield f"{', ' if number else ''}{json.dumps(item)}"
            yield "]"
        yield "}"
        for key, value in said.items():
            if key != "lists":
                yield f", {json.dumps(key)}: {json.dumps(value)}"
        yield "}"
    yield "}}"


def digest(entry: Mapping[str, Any]) -> str:
    """A hash of what a backend's connections depend on."""
    return hashlib.sha256(json.dumps(entry, sort_keys=True, default=str).encode()).hexdigest()[:32]
