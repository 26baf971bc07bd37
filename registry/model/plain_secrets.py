"""Secrets that stand in an entry as they are: found by where they stand or what they look like, hidden, or moved out. Pure.

A guess in both directions: what is found need not be a secret, and what is not found may be one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from registry.model.errors import KeyPath

HIDDEN = "•" * 8
LEAST = 6
"""Shorter values are taken for placeholders, and would be found everywhere in a text."""
SECRET_WORDS = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|PRIVATE_?KEY|CREDENTIALS?|AUTHORIZATION)$", re.I)
"""Names of variables and headers whose values are secrets."""
_NAME = (
    r"(?:[\w-]*[-_])?(?:token|secret|password|passwd|credentials?|(?:(?:api|access|auth|private|secret)[-_]?)?key)"
)
_OPTION = re.compile(rf"-{{1,2}}(?P<key>{_NAME})(?:=(?P<value>.*))?", re.I | re.DOTALL)
_SETTING = re.compile(r"(?P<key>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>.*)", re.DOTALL)
_HEADER = re.compile(r"(?P<key>Authorization|[\w-]*(?:key|token|secret)):\s*(?P<value>.*)", re.I | re.DOTALL)
_SCHEME = re.compile(r"(?:Bearer|Basic|Token)\s+", re.I)
_INSIDE = (
    re.compile(r"(?P<key>[a-z][a-z0-9+.-]*)://[^\s/:@]*:(?P<value>[^\s/@]+)@", re.I),
    re.compile(rf"[?&](?P<key>{_NAME})=(?P<value>[^&#\s]+)", re.I),
    re.compile(
        r"(?P<value>\bgh[pousr]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{12,}|\bxox[abprs]-[\w-]{10,}"
        r"|\bsk-[\w-]{16,}|\bAKIA[0-9A-Z]{16}\b|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+)"
    ),
)
"""A password in a URL, a key in its query, and tokens with a prefix of their own."""


@dataclass(frozen=True, slots=True)
class Plain:
    """One secret that stands in an entry."""

    path: KeyPath
    """Where, within the entry."""
    key: str
    """What it belongs to: a variable, a header, an option; for a name of the secret."""
    value: str


def plain_secrets(entry: Mapping[str, Any]) -> list[Plain]:
    """Every secret that stands in the entry of a server as it is; the entry may be of any shape."""
    found: list[Plain] = []
    for section in ("env", "environment", "envs", "headers", "http_headers"):
        given = entry.get(section)
        for key, text in given.items() if isinstance(given, Mapping) else ():
            if isinstance(text, str):
                found += named(str(key), text, (section, str(key))) if SECRET_WORDS.search(str(key)) else ()
                found += inside(text, str(key), (section, str(key)))
    for section in ("command", "args", "entrypoint"):
        args = entry.get(section)
        words = [word if isinstance(word, str) else "" for word in args] if isinstance(args, list | tuple) else []
        for index, word in enumerate(words):
            found += argument(word, words[index - 1] if index else "", (section, index))
    if isinstance(url := entry.get("url"), str):
        found += inside(url, "url", ("url",))
    kept: list[Plain] = []
    for plain in found:
        if not any(plain.path == other.path and plain.value in other.value for other in kept):
            kept.append(plain)
    return kept


def named(key: str, text: str, path: KeyPath) -> Iterator[Plain]:
    """The value of something whose name says that it is a secret."""
    value = _SCHEME.sub("", text, count=1) if _SCHEME.match(text) else text
    if len(value) >= LEAST and "${" not in value and not value.startswith(("/", "$", "~", "./")):
        yield Plain(path, key, value)


def argument(word: str, before: str, path: KeyPath) -> Iterator[Plain]:
    """The secrets in one argument: `--token=…`, what follows `--token`, `NAME=…`, `Authorization: Bearer …`."""
    if (option := _OPTION.fullmatch(word)) and option["value"]:
        yield from named(option["key"], option["value"], path)
    elif (setting := _SETTING.fullmatch(word)) and SECRET_WORDS.search(setting["key"]):
        yield from named(setting["key"], setting["value"], path)
    elif header := _HEADER.fullmatch(word):
        yield from named(header["key"], header["value"], path)
    elif (option := _OPTION.fullmatch(before)) and option["value"] is None and not word.startswith("-"):
        yield from named(option["key"], word, path)
    yield from inside(word, "token", path)


def inside(text: str, key: str, path: KeyPath) -> Iterator[Plain]:
    """Secrets within a longer text: a URL's password or key, a token that shows what it is."""
    for pattern in _INSIDE:
        for match in pattern.finditer(text):
            own = match.groupdict().get("key")
            name = f"{own}-password" if own and "://" in match[0] else own or key
            if "${" not in match["value"] and (len(match["value"]) >= LEAST or "://" in match[0]):
                yield Plain(path, name, match["value"])


def hide(text: str, found: Iterable[Plain]) -> str:
    """The text (a diff, a dump) with each of these secrets covered, however YAML or JSON writes it, also over lines."""
    for value in sorted({plain.value for plain in found}, key=len, reverse=True):
        if len(value) < LEAST:
            text = re.sub(rf"(://[^\s/:@]*:){re.escape(value)}@", rf"\g<1>{HIDDEN}@", text)
            continue
        in_json = (json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1])
        for written in {value, *in_json, value.replace("'", "''")}:
            text = text.replace(written, HIDDEN)
        if len(parts := value.split()) > 1:
            text = re.sub(r"\s+(?:[+-]\s+)?".join(map(re.escape, parts)), HIDDEN, text)
    return text


def without_secrets(entry: Mapping[str, Any], instead: Mapping[Plain, str]) -> dict[str, Any]:
    """The entry with another text in place of each of these secrets."""
    changed: dict[str, Any] = {key: _copy(value) for key, value in entry.items()}
    for plain, text in instead.items():
        here: Any = changed
        for part in plain.path[:-1]:
            here = here[part]
        last: Any = plain.path[-1]
        here[last] = here[last].replace(plain.value, text)
    return changed


def covered(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry with its secrets covered, for display."""
    return without_secrets(entry, dict.fromkeys(plain_secrets(entry), HIDDEN))


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, list | tuple) else value


def secret_name(name: str) -> str:
    """The secret's name for a variable: GITHUB_TOKEN is stored as `github-token`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "token"
