"""What a URI may come to mean: a filter reads text, a server may decode it and resolve its dots (RFC 3986 6.2.2)."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from gateway.mcp.filters import Globs

_ROUNDS: Final = 4
_DOTS: Final = re.compile(r"(?:^|[/\\])\.{1,2}(?:[/\\?#]|$)")


def passes(globs: Globs, uri: str) -> bool:
    """Whether a client's filter lets the URI through, whichever way the server reads it.

    It must be allowed as it is written, denied in no reading, and where dots lead elsewhere, allowed there too.
    """
    if not globs.passes(uri):
        return False
    forms = readings(uri)
    resolved = [resolve(form) for form in forms if _DOTS.search(form)]
    return not globs.denies(*forms) and all(globs.passes(form) for form in resolved)


def readings(uri: str) -> list[str]:
    """The URI as it is written, percent-decoded (and again, where that leaves more), and with scheme and host in small."""
    forms = [uri]
    while len(forms) < _ROUNDS and (decoded := unquote(forms[-1])) != forms[-1]:
        forms.append(decoded)
    return [*forms, *(small for form in forms if (small := _small(form)) != form)]


def _small(uri: str) -> str:
    head, separator, rest = uri.partition("://")
    if not separator:
        scheme, colon, rest = uri.partition(":")
        return scheme.lower() + colon + rest
    authority, slash, path = rest.partition("/")
    return f"{head.lower()}://{authority.lower()}{slash}{path}"


def resolve(uri: str) -> str:
    """The URI without its dot segments; a backslash counts as a slash, since some servers run where it is one."""
    head, separator, rest = uri.replace("\\", "/").partition("://")
    if not separator:
        head, rest = "", head
    authority, slash, path = rest.partition("/") if separator else ("", "", rest)
    end = min((at for at in (path.find("?"), path.find("#")) if at >= 0), default=len(path))
    path, tail = path[:end], path[end:]
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    if path.endswith(("/.", "/..")):
        kept.append("")
    return f"{head}{separator}{authority}{slash}{'/'.join(kept)}{tail}"
