"""What a client may see of a backend, and how it is shown: pure functions over names and definitions.

A name passes when an `allow` glob matches it (or there is no `allow`) and no `deny` glob does. A client's globs
are matched against the name as the client sees it on `/mcp` and against `SERVER__NAME` with the backend's own
name, so a rename never slips past a `deny`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


def _compile(globs: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{fnmatch.translate(glob)})" for glob in globs))


@dataclass(frozen=True, slots=True)
class Globs:
    """Allow and deny globs over names (case-sensitive; `*` matches every character)."""

    allow: re.Pattern[str] | None
    deny: re.Pattern[str] | None

    @classmethod
    def of(cls, allow: Sequence[str] | None, deny: Sequence[str] | None) -> Globs:
        """`allow=None` allows every name, an empty `allow` none."""
        nothing = re.compile(r"(?!)")
        allowed = None if allow is None else _compile(allow) if allow else nothing
        return cls(allowed, _compile(deny) if deny else None)

    def passes(self, *names: str) -> bool:
        """Whether an item with all of these names passes: one name is enough to allow it, and one to deny it."""
        if self.denies(*names):
            return False
        return self.allow is None or any(self.allow.match(name) for name in names)

    def denies(self, *names: str) -> bool:
        """Whether one of the names is denied."""
        return self.deny is not None and any(self.deny.match(name) for name in names)


@dataclass(frozen=True, slots=True)
class Shape:
    """How a backend's tools are changed before a client sees them; keys are the backend's own tool names."""

    rename: Mapping[str, str] = field(default_factory=dict)
    describe: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fixed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def shown_as(self, tool: str) -> str:
        """The tool's name after renaming."""
        return self.rename.get(tool, tool)

    def original(self, shown: str) -> str | None:
        """The backend's name for a shown one; None for a name that was renamed."""
        for tool, new in self.rename.items():
            if new == shown:
                return tool
        return None if shown in self.rename else shown

    def definition(self, tool: Mapping[str, Any], exposed: str) -> dict[str, Any]:
        """The definition as a client sees it. Everything that is not ours to change stays."""
        name = tool["name"]
        shown = {**tool, "name": exposed}
        if name in self.describe:
            shown["description"] = self.describe[name]
        if name in self.fixed or name in self.defaults:
            shown["inputSchema"] = _without(
                tool.get("inputSchema"), frozenset(self.fixed.get(name, ())), frozenset(self.defaults.get(name, ()))
            )
        return shown

    def arguments(self, tool: str, given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """The arguments to send: given ones override defaults, fixed ones override both."""
        if tool not in self.defaults and tool not in self.fixed:
            return given
        return {**self.defaults.get(tool, {}), **(given or {}), **self.fixed.get(tool, {})}


def _without(schema: Any, hidden: frozenset[str], optional: frozenset[str]) -> Any:
    """The schema without fixed properties; those with a default are no longer required."""
    if not isinstance(schema, Mapping):
        return schema
    shown = dict(schema)
    if isinstance(properties := schema.get("properties"), Mapping):
        shown["properties"] = {key: value for key, value in properties.items() if key not in hidden}
    if isinstance(required := schema.get("required"), list):
        shown["required"] = [key for key in required if key not in hidden and key not in optional]
    return shown
