"""The items of a backend's lists, in a form that every client can read.

A client's SDK parses a list as a whole: one item that it refuses costs it the items of all servers. So each item is
held against the protocol's shape once, when the list is read: what is optional and not as it should be is dropped;
what can be mended without guessing is mended; what cannot is left out, and named where an administrator looks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from pydantic_core import Url

from gateway.mcp.view.listing import Flaws, Kind
from gateway.mcp.view.schemas import input_schema, is_sound_output
from gateway.mcp.wire.incoming import without_ours

MAX_ITEM: Final = 256 * 1024
"""Bytes of one tool, prompt, resource or template, with its description and schemas."""
MAX_LIST: Final = 4 * 1024 * 1024
"""Bytes of one list of one backend."""
MAX_ITEMS: Final = 10_000
"""Items of one list of one backend."""
_MAX_KEY: Final = 8192
_MAX_SHOWN: Final = 80
_DEPTH_TO_SPARE: Final = 100
"""Levels of nesting around an item before it is written."""
_REPLACED: Final = "\ufffd"
"""Replaces what was no character, so the backend does not know the name."""
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)")


class Unfit(Exception):
    """Raised for an item that no client can be shown."""


class Sieve:
    """Takes the items of one list one by one, and keeps those that can be shown."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.items: list[dict[str, Any]] = []
        self.size = 0
        """Bytes of the items in the sieve."""
        self.looked = 0
        self.flaws = Flaws()

    @property
    def full(self) -> bool:
        """Whether it takes no more items."""
        return self.looked >= MAX_ITEMS or self.size >= MAX_LIST

    def take(self, item: Any) -> None:
        """Keep the item, if it is one."""
        self.looked += 1
        name = _shown_name(self.kind, item)
        try:
            fit, changed = mended(self.kind, item)
            size = _size(fit)
        except Unfit as error:
            self.flaws.leave_out(name, str(error))
            return
        if self.size + size > MAX_LIST:
            self.flaws.leave_out(name, f"the list is larger than {MAX_LIST} bytes")
            self.size = MAX_LIST
            return
        if changed:
            self.flaws.change(name, changed)
        self.size += size
        self.items.append(fit)

    def refuse(self, count: int) -> None:
        """Items came after the list was full."""
        if count:
            bound = f"{MAX_ITEMS} items" if self.looked >= MAX_ITEMS else f"{MAX_LIST} bytes"
            self.flaws.leave_out("the rest", f"a list is read up to {bound}", count)


def _shown_name(kind: Kind, item: Any) -> str:
    """The item's name, safe to print."""
    name = item.get(kind.key) if isinstance(item, dict) else None
    if not isinstance(name, str):
        return "one without a name"
    return ascii(name[:_MAX_SHOWN]) + ("…" if len(name) > _MAX_SHOWN else "")


def _size(item: dict[str, Any]) -> int:
    """Bytes of the item as it is written. Raises Unfit for one that is too large, or cannot be written."""
    size = size_of(item)
    if size is None:
        raise Unfit("it is nested too deep, or holds a number or text that is not JSON")
    if size > MAX_ITEM:
        raise Unfit(f"it has {size} bytes; the limit is {MAX_ITEM}")
    return size


def size_of(value: Any) -> int | None:
    """Bytes of a value as it is written; None for one that cannot be written, on its own or inside others."""
    try:
        return len(json.dumps(_wrapped(value), ensure_ascii=False, allow_nan=False).encode()) - 2 * _DEPTH_TO_SPARE
    except (ValueError, RecursionError):
        return None


def _wrapped(value: Any) -> Any:
    for _ in range(_DEPTH_TO_SPARE):
        value = [value]
    return value


def mended(kind: Kind, item: Any) -> tuple[dict[str, Any], list[str]]:
    """The item as every client can read it, and the members that had to be changed. Raises Unfit."""
    if not isinstance(item, dict):
        raise Unfit("it is no object")
    key = item.get(kind.key)
    if not isinstance(key, str) or not key:
        raise Unfit(f"it has no {kind.key}")
    _check_key(kind, key)
    shown, changed = _optional(item, _OPTIONAL[kind])
    if kind is Kind.TOOLS:
        schema, other = input_schema(item.get("inputSchema"))
        if schema is None:
            raise Unfit("its inputSchema is not one of an object")
        if other:
            shown["inputSchema"] = schema
            changed.append("inputSchema")
    elif kind is not Kind.PROMPTS and not isinstance(item.get("name"), str):
        shown["name"] = key
        changed.append("name")
    return (shown, changed) if changed else (item, [])


def _check_key(kind: Kind, key: str) -> None:
    """Raises Unfit for a name that model APIs refuse: they would refuse all tools of the request with it."""
    if len(key) > _MAX_KEY:
        raise Unfit(f"its {kind.key} is longer than {_MAX_KEY} characters")
    if not key.isprintable() or _REPLACED in key:
        raise Unfit(f"its {kind.key} holds a character that cannot be printed")
    if kind is Kind.TOOLS and " " in key:
        raise Unfit("a tool's name cannot hold a blank")
    if kind is Kind.RESOURCES:
        try:
            Url(key)
        except ValueError:
            raise Unfit("its uri is not a URI: it needs a scheme, such as file:") from None


_Check = Callable[[Any], Any]
"""The value as it can be shown; None for one that cannot."""


def _optional(item: Mapping[str, Any], checks: Mapping[str, _Check]) -> tuple[dict[str, Any], list[str]]:
    """The well-formed members, and the names of the others."""
    shown, changed = dict(item), []
    for member in item.keys() & checks.keys():
        value = item[member]
        fit = checks[member](value) if value is not None else None
        if fit is None:
            del shown[member]
        elif fit is not value and fit != value:
            shown[member] = fit
        else:
            continue
        changed.append(member)
    return shown, sorted(changed)


def _text(value: Any) -> Any:
    return value if isinstance(value, str) else None


def _flag(value: Any) -> Any:
    return value if isinstance(value, bool) else None


def _one_of(*words: str) -> _Check:
    return lambda value: value if isinstance(value, str) and value in words else None


def _each(check: _Check) -> _Check:
    """A list without its malformed entries."""
    return lambda value: (
        [fit for one in value if (fit := check(one)) is not None] if isinstance(value, list) else None
    )


def _object(checks: Mapping[str, _Check], required: str = "") -> _Check:
    """An object without its malformed members; it must have a text named `required`."""

    def check(value: Any) -> Any:
        if not isinstance(value, dict) or (required and not isinstance(value.get(required), str)):
            return None
        shown, changed = _optional(value, checks)
        return shown if changed else value

    return check


def _meta(value: Any) -> Any:
    return without_ours(value) if isinstance(value, dict) else None


def _bytes(value: Any) -> Any:
    return value if type(value) is int and 0 <= value < 2**53 else None


def _share(value: Any) -> Any:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1 else None


def _moment(value: Any) -> Any:
    """A time as RFC 3339 writes it."""
    if not isinstance(value, str) or not _MOMENT.fullmatch(value):
        return None
    try:
        datetime.fromisoformat(value[:19])
    except ValueError:
        return None
    return value


def _schema_of_output(value: Any) -> Any:
    return value if is_sound_output(value) else None


ICONS: Final = _each(
    _object({"mimeType": _text, "sizes": _each(_text), "theme": _one_of("light", "dark")}, required="src")
)
_COMMON: Final[Mapping[str, _Check]] = {"title": _text, "description": _text, "icons": ICONS, "_meta": _meta}
_HINTS: Final = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
_ANNOTATIONS: Final = _object(
    {"audience": _each(_one_of("user", "assistant")), "priority": _share, "lastModified": _moment}
)
_OPTIONAL: Final[Mapping[Kind, Mapping[str, _Check]]] = {
    Kind.TOOLS: {
        **_COMMON,
        "outputSchema": _schema_of_output,
        "annotations": _object({"title": _text, **dict.fromkeys(_HINTS, _flag)}),
        "execution": _object({"taskSupport": _one_of("forbidden", "optional", "required")}),
    },
    Kind.PROMPTS: {
        **_COMMON,
        "arguments": _each(_object({"title": _text, "description": _text, "required": _flag}, required="name")),
    },
    Kind.RESOURCES: {**_COMMON, "mimeType": _text, "size": _bytes, "annotations": _ANNOTATIONS},
    Kind.TEMPLATES: {**_COMMON, "mimeType": _text, "annotations": _ANNOTATIONS},
}
