"""What pinned tool definitions said, so that a person can compare; `pins` decides by digests, this only explains."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

logger = logging.getLogger(__name__)

_FILE: Final = "pinned-words.json"
_MAX_TEXT: Final = 4_000
_MAX_TOOLS: Final = 500
"""Tools of one backend whose words are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A tool whose definition is not the pinned one."""

    tool: str
    before: str
    """What the pinned definition said; empty for a new tool, or one whose words were not kept."""
    after: str


def words(tool: Mapping[str, Any]) -> str:
    """A definition as text: the description first, then all else that it says, cut after 4,000 characters."""
    rest = {key: value for key, value in tool.items() if key not in {"name", "description"}}
    text = f"{tool.get('description', '')}\n\n{json.dumps(rest, indent=1, sort_keys=True, ensure_ascii=False)}"
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"


class Wording:
    """The words of pinned definitions, in a file where there is a directory for it, and of those that changed."""

    def __init__(self, directory: Path | None) -> None:
        self._path = directory / _FILE if directory is not None else None
        self._pinned: dict[str, dict[str, str]] = self._load()
        self._changed: dict[str, dict[str, str]] = {}

    def pin(self, backend: str, tools: Iterable[Mapping[str, Any]]) -> None:
        """These definitions are pinned."""
        kept = self._pinned.setdefault(backend, {})
        for tool in tools:
            if len(kept) < _MAX_TOOLS or tool["name"] in kept:
                kept[str(tool["name"])] = words(tool)
        self._save()

    def changed(self, backend: str, tool: Mapping[str, Any]) -> None:
        """This definition is another than the pinned one."""
        fresh = self._changed.setdefault(backend, {})
        if len(fresh) < _MAX_TOOLS or tool["name"] in fresh:
            fresh[str(tool["name"])] = words(tool)

    def approve(self, backend: str, tool: str) -> None:
        """The changed definition is the pinned one now."""
        text = self._changed.get(backend, {}).pop(tool, None)
        if text is not None:
            self._pinned.setdefault(backend, {})[tool] = text
            self._save()

    def differences(self, backend: str, tools: Iterable[str]) -> list[Difference]:
        """What these tools said and say, where it is known."""
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

    def _save(self) -> None:
        if self._path is None:
            return
        draft = self._path.with_suffix(".new")
        try:
            draft.write_text(json.dumps(self._pinned))
            os.replace(draft, self._path)
        except OSError as error:
            logger.warning("the words of pinned tool definitions cannot be kept: %s", error)
