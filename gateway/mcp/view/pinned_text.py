"""The texts of pinned tool definitions, so that a person can compare; `pins` decides by digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.mcp.wire.saver import Saver

_FILE: Final = "pinned-words.json"
_MAX_TEXT: Final = 4_000
_MAX_TOOLS: Final = 500
"""Tools of one backend whose texts are stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A tool whose definition is not the pinned one."""

    tool: str
    before: str
    """The text of the pinned definition; empty for a new tool, or one whose text was not stored."""
    after: str


def words(tool: Mapping[str, Any]) -> str:
    """A definition as text: the description first, then all other members, cut after 4,000 characters. Two that differ
    only behind the cut are told apart by what stands there."""
    rest = {key: value for key, value in tool.items() if key not in {"name", "description"}}
    text = f"{tool.get('description', '')}\n\n{json.dumps(rest, indent=1, sort_keys=True, ensure_ascii=False)}"
    if len(text) <= _MAX_TEXT:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    rest_size = len(text) - _MAX_TEXT
    return f"{text[:_MAX_TEXT]}…\n\n({rest_size} more characters are not shown; SHA-256 of the whole: {digest})"


class Wording:
    """The texts of pinned definitions (in a file, if there is a directory for it) and of those that changed."""

    def __init__(self, directory: Path | None) -> None:
        self._path = directory / _FILE if directory is not None else None
        self._pinned: dict[str, dict[str, str]] = self._load()
        self._changed: dict[str, dict[str, str]] = {}
        self.saver = Saver(self._path, "the words of pinned tool definitions", self._snapshot)

    def pin(self, backend: str, tools: Iterable[Mapping[str, Any]]) -> None:
        """These definitions are pinned."""
        kept = self._pinned.setdefault(backend, {})
        for tool in tools:
            if len(kept) < _MAX_TOOLS or tool["name"] in kept:
                kept[str(tool["name"])] = words(tool)
        self.saver.soon()

    def forget(self, backend: str, tools: Iterable[str]) -> None:
        """These definitions are no longer pinned."""
        for kept in (self._pinned.get(backend, {}), self._changed.get(backend, {})):
            for tool in tools:
                kept.pop(tool, None)

    def changed(self, backend: str, tool: Mapping[str, Any]) -> None:
        """This definition differs from the pinned one."""
        fresh, pinned, name = self._changed.setdefault(backend, {}), self._pinned.get(backend, {}), str(tool["name"])
        if name not in fresh and len(fresh) >= _MAX_TOOLS:
            new = next((other for other in reversed(fresh) if other not in pinned), None) if name in pinned else None
            if new is None:
                return
            del fresh[new]  # a change of what was pinned counts for more than a tool that came later
        fresh[name] = words(tool)

    def approve(self, backend: str, tool: str) -> None:
        """The changed definition is the pinned one now."""
        text = self._changed.get(backend, {}).pop(tool, None)
        if text is not None:
            self._pinned.setdefault(backend, {})[tool] = text
            self.saver.soon()

    def differences(self, backend: str, tools: Iterable[str]) -> list[Difference]:
        """The pinned and the current texts of these tools, as far as they are known."""
        before, after = self._pinned.get(backend, {}), self._changed.get(backend, {})
        return [
            Difference(tool=tool, before=before.get(tool, ""), after=after[tool])
            for tool in sorted(tools)
            if tool in after
        ]

    def _load(self) -> dict[str, dict[str, str]]:
        try:
            kept = json.loads(self._path.read_text()) if self._path is not None else {}
        except (OSError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}

    def _snapshot(self) -> Callable[[], Iterator[str]]:
        kept = {backend: dict(tools) for backend, tools in self._pinned.items()}
        return lambda: pieces(kept)


def pieces(kept: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """A JSON object of objects of texts, text by text."""
    begin = "{"
    for backend, texts in kept.items():
        yield f"{begin}{json.dumps(backend)}: "
        inner = "{"
        for name, text in texts.items():
            yield f"{inner}{json.dumps(name)}: {json.dumps(text)}"
            inner = ",\n"
        yield "}" if texts else "{}"
        begin = ",\n"
    yield "}" if kept else "{}"
