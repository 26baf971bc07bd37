"""What a configuration file may have lost: access never becomes wider by something that is missing.

Theory of operation. YAML has no mark for its end: the first half of a file can be a valid file, with fewer rules. (An
editor that writes in place, a full disk and a crash leave such files.) A cut takes from the end, so only collections
that the end leaves open can have lost something: the last value, and each block of lines that it is in. What is in
brackets is closed by them, and JSON always is. So a key that the configuration in force has, and that is missing where
the file may have been cut, is taken for lost if access would be wider without it. To be rid of it on purpose, one
writes what holds instead (`deny: []`). Whether the endpoint asks for a token never depends on a key that is missing,
wherever it was.

What is new in a file has no state before to compare it with: of a new server whose entry is written half, nothing is
known here. `gateway/watch.py` makes sure that a file which is still being written is not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from registry.file.document import Document
from registry.model.errors import KeyPath, Problem

HARMLESS = frozenset(
    tuple(pattern.split("/"))
    for pattern in """
        version project extra_ca
        gateway/listen gateway/admin gateway/separator gateway/annotate_denials gateway/allowed_hosts
        gateway/allowed_hosts/* gateway/allowed_origins gateway/allowed_origins/* gateway/call_timeout_s
        gateway/start_timeout_s gateway/shutdown_grace_s gateway/build_timeout_s gateway/history gateway/history/*
        gateway/anonymous gateway/auth gateway/auth/oauth
        egress/resolve egress/resolve/*
        mcpServers mcpServers/*
        mcpServers/*/network mcpServers/*/network/isolated mcpServers/*/network/allowed_hosts
        mcpServers/*/network/allowed_hosts/* mcpServers/*/network/allowed_hosts/*/private
        mcpServers/*/network/allowed_hosts/*/ports/* mcpServers/*/network/allowed_ports/* mcpServers/*/network/mode
        mcpServers/*/network/direct mcpServers/*/network/join mcpServers/*/network/join/*
        mcpServers/*/tools/allow/* mcpServers/*/prompts/allow/* mcpServers/*/tools/describe mcpServers/*/tools/describe/*
        mcpServers/*/storage mcpServers/*/storage/* mcpServers/*/mounts mcpServers/*/mounts/*
        mcpServers/*/mounts/*/accept mcpServers/*/mounts/*/accept/*
        mcpServers/*/port mcpServers/*/path mcpServers/*/packages mcpServers/*/packages/* mcpServers/*/user
        mcpServers/*/spares mcpServers/*/start mcpServers/*/prefix mcpServers/*/call_timeout_s
        mcpServers/*/start_timeout_s
        clients/*/token_sha256 clients/*/servers/* clients/*/tools/allow/* clients/*/tools/mode clients/*/tools/pinned
        clients/*/tools/pinned/* clients/*/prompts/allow/* clients/*/resources/allow/*
    """.split()
)
"""Without one of these, access is as it was or narrower. Anything else that is lost is held back, new keys too."""


def cut_off(before: Document, now: Document) -> tuple[Problem, ...]:
    """What the file `now` may have lost of `before`, which was in force, if access is wider without it."""
    if not isinstance(before.value, Mapping) or not isinstance(now.value, Mapping):
        return ()
    found = dict.fromkeys(opened(before.value, now.value))
    found |= dict.fromkeys(lost(before, now))
    problems = [problem(now, path) for path in found]
    if (path := half_value(before, now)) is not None:
        message = "may be truncated: the file ends with it, without a line break"
        problems.append(now.problem(path, message, "If it is complete, end its line"))
    return tuple(problems)


def problem(now: Document, path: KeyPath) -> Problem:
    """The problem to report for one loss."""
    key = str(path[-1])
    hint = f"If that is intended, write what applies instead: `{key}:` with its new value"
    if path == ("clients",):
        hint = "If every program on this machine may connect without a token, write `clients: {}`"
    if path == ("gateway", "anonymous"):
        hint = "If every program on this machine may connect without a token, write `anonymous: auto` under gateway"
    if isinstance(path[-1], int):
        hint = f"If that is intended, write the list `{path[-2]}:` in brackets"
    return now.problem(path, "was in force and is missing: the file may be truncated", hint)


# who may connect


def opened(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[KeyPath]:
    """The keys that kept out clients without a token, if no key does so now and none allows them explicitly."""
    if asks_for_token(now) or mapping(now, "gateway").get("anonymous") is not None:
        return
    if before.get("clients") and now.get("clients") is None:
        yield ("clients",)
    if mapping(before, "gateway").get("anonymous") == "never" or oauth(before):
        yield ("gateway", "anonymous")


def asks_for_token(value: Mapping[str, Any]) -> bool:
    return bool(value.get("clients")) or mapping(value, "gateway").get("anonymous") == "never" or oauth(value)


def oauth(value: Mapping[str, Any]) -> bool:
    return bool(mapping(mapping(value, "gateway"), "auth").get("oauth"))


def mapping(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


# what else is missing


def lost(before: Document, now: Document) -> Iterator[KeyPath]:
    """What is missing in the collections that the end of the file leaves open, and would narrow access."""
    by_oauth = oauth(now.value)
    old: Any = before.value
    for path, new in open_at_end(now):
        if path:
            old = counterpart(old, path[-1], new)
        match old, new:
            case Mapping(), Mapping():
                missing = {key: item for key, item in old.items() if item is not None and new.get(key) is None}
            case list(), list():
                missing = {index: item for index, item in enumerate(old) if item not in new}
            case _:
                return
        for key, item in missing.items():
            if not is_harmless((*path, key), item, by_oauth=by_oauth):
                yield (*path, key)


def open_at_end(document: Document) -> Iterator[tuple[KeyPath, Any]]:
    """The collections that more lines would go on with, outermost first."""
    path: KeyPath = ()
    here: Any = document.value
    while isinstance(here, Mapping | list) and here:
        span = document.spans.get(path)
        if span is None or span.flow or (path and span.start < span.key_start):  # brackets, or an alias
            return
        yield path, here
        path, here = last_in(document, path, here)


def last_in(document: Document, path: KeyPath, here: Mapping[str, Any] | list[Any]) -> tuple[KeyPath, Any]:
    """What stands last in a collection: its path and its value."""
    items: Iterator[tuple[str | int, Any]] = iter(here.items() if isinstance(here, Mapping) else enumerate(here))
    spans = document.spans
    found = (((*path, key), item) for key, item in items)
    return max(found, key=lambda one: spans[one[0]].key_start if one[0] in spans else -1)


def counterpart(old: Any, key: str | int, new: Any) -> Any:
    """What the configuration in force has in that place: in a list, the item about the same thing."""
    if isinstance(old, Mapping):
        return old.get(str(key))
    if not isinstance(old, list) or not isinstance(new, Mapping):
        return None
    for about in ("host", "source"):
        if about in new:
            return next((item for item in old if isinstance(item, Mapping) and item.get(about) == new[about]), None)
    return None


def is_harmless(path: KeyPath, value: Any, *, by_oauth: bool) -> bool:
    """Whether losing this key opens nothing. (`opened` checks whether clients still need a token.)"""
    if path[0] == "clients" and len(path) <= 2:
        return not by_oauth  # whom OAuth alone lets in would see everything
    if any(fits(path, known) for known in HARMLESS):
        return True
    if not isinstance(value, Mapping) or not value:
        return False
    return all(is_harmless((*path, key), value[key], by_oauth=by_oauth) for key in value)


def fits(path: KeyPath, known: tuple[str, ...]) -> bool:
    return len(path) == len(known) and all(name in ("*", part) for part, name in zip(path, known, strict=True))


def half_value(before: Document, now: Document) -> KeyPath | None:
    """The last value of the file, if it may be the beginning of a longer one: not in force, in no quotes or brackets,
    and its line does not end."""
    if now.is_json or now.text.endswith("\n"):
        return None
    path: KeyPath = ()
    here: Any = now.value
    while isinstance(here, Mapping | list) and here:
        if (span := now.spans.get(path)) is None or span.flow:
            return None
        path, here = last_in(now, path, here)
    span = now.spans.get(path)
    if span is None or here is None or span.end < len(now.text.rstrip(" ")) or now.text[span.start] in "\"'":
        return None
    return None if in_force(before.value, path, here) else path


def in_force(value: Any, path: KeyPath, wanted: Any) -> bool:
    """Whether the value is already in force in that place (in a list: anywhere in it)."""
    for part in path[:-1]:
        if isinstance(value, Mapping):
            value = value.get(str(part))
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return False
    if isinstance(value, list):
        return wanted in value
    return isinstance(value, Mapping) and path[-1] in value and value[path[-1]] == wanted
