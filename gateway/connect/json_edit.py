"""Edits one key of a JSON file in place, comments and layout kept.

Theory of operation. Comments and trailing commas are blanked to spaces of the same length, so the rest is strict
JSON at the same offsets; the standard decoder then finds where each member starts and ends; the edit is a splice of
the original text. What comes out is read again and compared with what was meant: an edit that went wrong is never
written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from registry.file.document import blank_comments

_SPACE = re.compile(r"\s*")
_REMARK = re.compile(r"[ \t]*(?:/\*[^\n]*?\*/[ \t]*)*(?://[^\n]*)?")
"""What may follow a member on its line."""
_DECODER = json.JSONDecoder()


class EditError(ValueError):
    """Raised when a client's file cannot be edited safely; the text says why."""


@dataclass(frozen=True, slots=True)
class Member:
    """One `"key": value` of an object, by offsets into the text."""

    key: str
    start: int
    """Of the key's quote."""
    value: int
    end: int


@dataclass(frozen=True, slots=True)
class Object:
    """A JSON object by offsets: its members, and its braces."""

    open: int
    close: int
    members: tuple[Member, ...]

    def member(self, key: str) -> Member | None:
        """The last member of that name (which is the one that readers take)."""
        return next((m for m in reversed(self.members) if m.key == key), None)


def load(text: str) -> Any:
    """The value of JSON text that may have comments and trailing commas; empty text is `{}`."""
    try:
        return json.loads(blank_comments(text)) if text.strip() else {}
    except ValueError as error:
        raise EditError(f"it is not JSON ({error})") from None


def set_path(text: str, path: Sequence[str], value: Any) -> str:
    """The text with `value` at `path`; objects on the way are made."""
    before = load(text)
    if not isinstance(before, dict):
        raise EditError("it does not hold a JSON object")
    changed = _splice(text if text.strip() else "{}\n", path, value)
    return _checked(changed, _with(before, path, value))


def remove_path(text: str, path: Sequence[str]) -> str:
    """The text without the key at `path`; the same text when it has none."""
    before = load(text)
    *parents, last = path
    strict, at = blank_comments(text), _start(text)
    for key in parents:
        member = _object(strict, at).member(key) if strict[at : at + 1] == "{" else None
        if member is None:
            return text
        at = member.value
    if strict[at : at + 1] != "{" or (member := (found := _object(strict, at)).member(last)) is None:
        return text
    return _checked(_cut(text, found, member), _without(before, path))


def _splice(text: str, path: Sequence[str], value: Any) -> str:
    strict, at = blank_comments(text), _start(text)
    for depth, key in enumerate(path):
        if strict[at] != "{":
            raise EditError(f"`{'.'.join(path[:depth])}` is not an object")
        found = _object(strict, at)
        member = found.member(key)
        if member is None:
            for outer in reversed(path[depth + 1 :]):
                value = {outer: value}
            return _insert(text, found, depth, key, value)
        at = member.value
    assert member is not None
    return text[: member.value] + _dump(value, _indent(text), len(path)) + text[member.end :]


def _insert(text: str, found: Object, depth: int, key: str, value: Any) -> str:
    """A new last member, on a line of its own below the one before and its remark."""
    unit = _indent(text)
    line = f"\n{unit * (depth + 1)}{json.dumps(key)}: {_dump(value, unit, depth + 1)}"
    if not found.members:
        inside = text[found.open + 1 : found.close]
        tail = inside.rstrip() + "\n" + unit * depth if inside.strip() else "\n" + unit * depth
        return text[: found.open + 1] + line + tail + text[found.close :]
    end = found.members[-1].end
    if (comma := _comma(text, end, found.close)) is None:
        text = text[:end] + "," + text[end:]
        comma, found = end, replace(found, close=found.close + 1)
    remark = _REMARK.match(text, comma + 1, found.close)
    at = remark.end() if remark else comma + 1
    closing = "" if "\n" in text[at : found.close] else "\n" + unit * depth
    return text[:at].rstrip(" \t") + line + closing + text[at:].lstrip(" \t" if closing else "")


def blank_comments_only(text: str) -> str:
    """Text between two members with its comments (not its commas) turned into spaces."""
    return re.sub(r"//[^\n]*|/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m.group()), text, flags=re.S)


def _cut(text: str, found: Object, member: Member) -> str:
    """Without one member, one comma, and the line break before it."""
    start = member.start
    while text[start - 1] in " \t":
        start -= 1
    if text[start - 1] == "\n":
        start -= 1
    comma = _comma(text, member.end, found.close)
    end = member.end if comma is None else comma + 1
    text = text[:start] + text[end:]
    if comma is None and len(found.members) > 1:
        before = _comma(text, found.members[-2].end, start)
        text = text if before is None else text[:before] + text[before + 1 :]
    return text


def _comma(text: str, start: int, end: int) -> int | None:
    """Where the comma is that follows a member, past any comments."""
    match = re.match(r"\s*,", blank_comments_only(text[start:end]))
    return start + match.end() - 1 if match else None


def _start(text: str) -> int:
    match = _SPACE.match(blank_comments(text), 1 if text.startswith("\ufeff") else 0)
    assert match is not None
    return match.end()


def _object(strict: str, at: int) -> Object:
    """The members of the object at that offset of strict JSON."""
    members: list[Member] = []
    here = _skip(strict, at + 1)
    while strict[here] != "}":
        start = here
        key, here = _DECODER.raw_decode(strict, here)
        value = _skip(strict, _skip(strict, here) + 1)
        _, end = _DECODER.raw_decode(strict, value)
        members.append(Member(key, start, value, end))
        here = _skip(strict, end)
        if strict[here] == ",":
            here = _skip(strict, here + 1)
    return Object(at, here, tuple(members))


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _indent(text: str) -> str:
    """The file's own unit of indentation: that of its first indented line."""
    match = re.search(r"^([ \t]+)\S", text, flags=re.M)
    return match.group(1) if match else "  "


def _dump(value: Any, unit: str, depth: int) -> str:
    return json.dumps(value, indent=unit, ensure_ascii=False).replace("\n", "\n" + unit * depth)


def _with(data: Any, path: Sequence[str], value: Any) -> Any:
    head, *rest = path
    return {**data, head: _with(data.get(head, {}), rest, value) if rest else value}


def _without(data: Any, path: Sequence[str]) -> Any:
    head, *rest = path
    return {k: (_without(v, rest) if rest else v) if k == head else v for k, v in data.items() if rest or k != head}


def _checked(text: str, meant: Any) -> str:
    """The text, when it reads back as what was meant."""
    try:
        same = load(text) == meant
    except EditError:
        same = False
    if not same:
        raise EditError("its layout is unusual; paste the entry by hand")
    return text
