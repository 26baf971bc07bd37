"""Changes a JSON text in place: one key, or all that differs from a new value. Comments and layout stay.

Theory of operation. Comments and trailing commas are blanked to spaces of the same length, so the rest is strict JSON
at the same offsets; the standard decoder then finds where each member of an object or array starts and ends; an edit
replaces that stretch of the original text. The result is read again and compared with what was meant: an edit that went
wrong is never returned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from registry.file.document import blank_comments
from registry.model.errors import KeyPath

_SPACE: Final = re.compile(r"\s*")
_REMARK: Final = re.compile(r"[ \t]*(?:/\*[^\n]*?\*/[ \t]*)*(?://[^\n]*)?")
"""Comments that may follow a member on its line."""
_DECODER: Final = json.JSONDecoder()


class EditRefused(ValueError):
    """Raised when a text cannot be edited safely; the message says why."""


@dataclass(frozen=True, slots=True)
class Member:
    """A `"key": value` of an object, or an item of an array, by offsets into the text."""

    key: str | int
    start: int
    """Of the key's quote; of the value, in an array."""
    value: int
    end: int


@dataclass(frozen=True, slots=True)
class Container:
    """A JSON object or array by offsets: its members and its brackets."""

    open: int
    close: int
    members: tuple[Member, ...]

    def member(self, key: str | int) -> Member | None:
        """The last member with that key (the one that readers take)."""
        return next((m for m in reversed(self.members) if m.key == key), None)


def load(text: str) -> Any:
    """The value of JSON text that may have comments and trailing commas; empty text is `{}`."""
    try:
        return json.loads(blank_comments(text)) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise EditRefused(f"it is not JSON ({error})") from None


def set_path(text: str, path: KeyPath, value: Any) -> str:
    """The text with `value` at `path`. Missing objects on the way are added; an index one past the end appends."""
    before = load(text)
    if not isinstance(before, dict):
        raise EditRefused("it does not hold a JSON object")
    changed = _set(text if text.strip() else "{}\n", path, value)
    return _checked(changed, _with(before, path, value))


def remove_path(text: str, path: KeyPath) -> str:
    """The text without the key at `path`; the same text when it has none."""
    before = load(text)
    *parents, last = path
    strict, at = blank_comments(text), _start(text)
    for key in parents:
        member = _container(strict, at).member(key) if strict[at : at + 1] in ("{", "[") else None
        if member is None:
            return text
        at = member.value
    if strict[at : at + 1] != "{" or (member := (found := _container(strict, at)).member(last)) is None:
        return text
    return _checked(_cut(text, found, member), _without(before, path))


def rewrite(text: str, new: dict[str, Any]) -> str:
    """The text changed only where its value differs from `new`."""
    before = load(text)
    if not isinstance(before, dict):
        raise EditRefused("it does not hold a JSON object")
    for path, value, removed in _differences(before, new, ()):
        text = remove_path(text, path) if removed else set_path(text, path, value)
    return text


def _differences(old: Any, new: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any, bool]]:
    """Path, new value, and whether it is removed, of each edit that turns `old` into `new`."""
    if old == new and type(old) is type(new):
        return
    if isinstance(old, dict) and isinstance(new, dict) and (not path or old.keys() & new.keys()):
        for key, value in new.items():
            if key in old:
                yield from _differences(old[key], value, (*path, key))
            else:
                yield (*path, key), value, False
        for key in old:  # last: an object that becomes empty no longer shows how the file breaks its lines
            if key not in new:
                yield (*path, key), None, True
    elif isinstance(old, list) and isinstance(new, list) and old and new[: len(old)] == old:
        for index in range(len(old), len(new)):
            yield (*path, index), new[index], False
    else:
        yield path, new, False


def _set(text: str, path: KeyPath, value: Any) -> str:
    strict, at = blank_comments(text), _start(text)
    for depth, key in enumerate(path):
        if strict[at] != ("{" if isinstance(key, str) else "["):
            kind = "an object" if isinstance(key, str) else "an array"
            raise EditRefused(f"`{'.'.join(map(str, path[:depth]))}` is not {kind}")
        found = _container(strict, at)
        member = found.member(key)
        if member is None:
            for outer in reversed(path[depth + 1 :]):
                value = {outer: value}
            return _insert(text, found, depth, key, value)
        at = member.value
    assert member is not None
    written = _dump(text, value, None if _is_inline(text, found) else _margin(text, found, len(path)))
    return text[: member.value] + written + text[member.end :]


def _insert(text: str, found: Container, depth: int, key: str | int, value: Any) -> str:
    """A new last member: on the line of the others where they share one, else on a line of its own below their remarks."""
    margin = None if _is_inline(text, found) else _margin(text, found, depth + 1)
    member = ("" if isinstance(key, int) else f"{json.dumps(key, ensure_ascii=False)}: ") + _dump(text, value, margin)
    newline = _newline(text)
    outside = newline + _unit(text) * depth
    if not found.members:
        inside = text[found.open + 1 : found.close].rstrip()
        return text[: found.open + 1] + f"{newline}{margin}{member}{inside}{outside}" + text[found.close :]
    end = found.members[-1].end
    if (comma := _comma(text, end, found.close)) is not None:
        member += ","  # a trailing comma is the file's own style; taking the member out again leaves the neighbour's
    else:
        text = text[:end] + "," + text[end:]
        comma, found = end, replace(found, close=found.close + 1)
    if margin is None:
        return text[: comma + 1] + f" {member}" + text[comma + 1 :]
    remark = _REMARK.match(text, comma + 1, found.close)
    at = remark.end() if remark else comma + 1
    closing = "" if "\n" in text[at : found.close] else outside
    rest = text[at:].lstrip(" \t" if closing else "")
    return text[:at].rstrip(" \t\r") + f"{newline}{margin}{member}" + closing + rest


def _cut(text: str, found: Container, member: Member) -> str:
    """Without one member, one comma, and the line break before it."""
    start = member.start
    while text[start - 1] in " \t":
        start -= 1
    if text[start - 1] == "\n":
        start -= 2 if text[start - 2] == "\r" else 1
    comma = _comma(text, member.end, found.close)
    end = member.end if comma is None else comma + 1
    text = text[:start] + text[end:]
    if comma is None and len(found.members) > 1:
        before = _comma(text, found.members[-2].end, start)
        text = text if before is None else text[:before] + text[before + 1 :]
    if len(found.members) == 1:
        closing = start + len(text[start:]) - len(text[start:].lstrip())
        if not text[found.open + 1 : closing].strip() and text[closing : closing + 1] in ("}", "]"):
            return text[: found.open + 1] + text[closing:]
    return text


def _comma(text: str, start: int, end: int) -> int | None:
    """Where the comma after a member is, past any comments."""
    blanked = re.sub(
        r"//[^\n]*|/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m.group()), text[start:end], flags=re.DOTALL
    )
    match = re.match(r"\s*,", blanked)
    return start + match.end() - 1 if match else None


def _start(text: str) -> int:
    return _skip(blank_comments(text), 0)


def _container(strict: str, at: int) -> Container:
    """The members of the object or array at that offset of strict JSON."""
    members: list[Member] = []
    is_object = strict[at] == "{"
    here = _skip(strict, at + 1)
    while strict[here] not in "}]":
        start = value = here
        key: str | int = len(members)
        if is_object:
            key, here = _DECODER.raw_decode(strict, here)
            value = _skip(strict, _skip(strict, here) + 1)
        _, end = _DECODER.raw_decode(strict, value)
        members.append(Member(key, start, value, end))
        here = _skip(strict, end)
        if strict[here] == ",":
            here = _skip(strict, here + 1)
    return Container(at, here, tuple(members))


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _is_inline(text: str, found: Container) -> bool:
    """Whether the members all stand on one line with their brackets."""
    return bool(found.members) and "\n" not in text[found.open : found.close]


def _margin(text: str, found: Container, depth: int) -> str:
    """What stands before a member on its line: as before the last one, else by the depth."""
    if found.members:
        start = found.members[-1].start
        before = text[text.rfind("\n", 0, start) + 1 : start]
        if not before.strip():
            return before
    return _unit(text) * depth


def _unit(text: str) -> str:
    """The file's own unit of indentation: that of its first indented line."""
    match = re.search(r"^([ \t]+)\S", text, flags=re.MULTILINE)
    return match.group(1) if match else "  "


def _newline(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _dump(text: str, value: Any, margin: str | None) -> str:
    """The value as JSON: on one line, or over several of which all but the first have `margin` before them."""
    if margin is None:
        return json.dumps(value, ensure_ascii=False)
    lines = json.dumps(value, indent=_unit(text), ensure_ascii=False)
    return lines.replace("\n", _newline(text) + margin)


def _with(data: Any, path: Sequence[str | int], value: Any) -> Any:
    head, *rest = path
    if isinstance(data, list):
        assert isinstance(head, int)
        inner = _with(data[head], rest, value) if rest else value
        return [*data[:head], inner, *data[head + 1 :]]
    return {**data, head: _with(data.get(head, {}), rest, value) if rest else value}


def _without(data: Any, path: Sequence[str | int]) -> Any:
    head, *rest = path
    if isinstance(data, list):
        return [_without(item, rest) if at == head else item for at, item in enumerate(data)]
    return {k: (_without(v, rest) if rest else v) if k == head else v for k, v in data.items() if rest or k != head}


def _checked(text: str, meant: Any) -> str:
    """The text, when it reads back as what was meant."""
    try:
        same = load(text) == meant
    except EditRefused:
        same = False
    if not same:
        raise EditRefused("its layout is unusual; paste the entry by hand")
    return text
