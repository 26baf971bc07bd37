"""What a URI may come to mean: a filter reads text, a server may parse it, decode it and resolve its dots.

Theory of operation. Servers read URIs with the WHATWG URL parser (`new URL` in JavaScript, pydantic's `AnyUrl` in
Python's SDK) or with functions of their own over text and paths (RFC 3986 6.2.2). A WHATWG parser silently drops tabs
and line breaks, trims blanks, and takes a backslash for a slash; RFC 3986 has none of these, so a URI that holds one is
refused (`flaw`). What is left is judged in every reading: as it is written, as the parser writes it, percent-decoded,
with its dots resolved as a URL's and as a path's. A filter lets a URI through if it allows each reading that may name
another resource, and denies none.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from pydantic_core import Url

from gateway.mcp.view.filters import Globs

_ROUNDS: Final = 4
_DOTS: Final = re.compile(r"(?:^|[/\\])\.{1,2}(?:[/\\?#]|$)")
_FORBIDDEN: Final = re.compile(
    r"[\x00-\x20\\\x7f-\xa0\u1680\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\ud800-\udfff]"
)
"""What no URI holds and what readers drop: control characters, blanks, backslashes, invisible characters."""
_USER: Final = re.compile(r"://[^/?#@]*@")
_SLASHES: Final = re.compile(r"/{2,}")


def flaw(uri: str) -> str:
    """Why the text is no URI that all programs read alike; empty when it is one."""
    found = _FORBIDDEN.search(uri)
    return f"it holds {found[0]!a}, which a URI must percent-encode" if found is not None else ""


def passes(globs: Globs, uri: str) -> bool:
    """Whether a client's filter allows the URI, in every way that a server may read it."""
    if globs.allow is None and globs.deny is None:
        return True
    if flaw(uri) or not globs.passes(uri):
        return False
    forms = readings(uri)
    resolved = [path for form in forms if _DOTS.search(form) for path in (resolve(form), resolve(_collapsed(form)))]
    normal = [parsed for form in forms if (parsed := parsed_form(form)) is not None]
    if globs.denies(*forms, *normal, *map(_bare, forms), *map(_bare, normal), *map(_collapsed, forms)):
        return False
    return all(globs.passes(form) for form in resolved) and all(_is_allowed(globs, form) for form in normal)


def _is_allowed(globs: Globs, parsed: str) -> bool:
    """Whether what a parser made of the URI is allowed: it encodes more than people do, and gives a bare host its slash."""
    return globs.passes(parsed, unquote(parsed), parsed.removesuffix("/"), unquote(parsed).removesuffix("/"))


def readings(uri: str) -> list[str]:
    """The URI as it is written, percent-decoded (and again, where that leaves more), and with scheme and host in small."""
    forms = [uri]
    while len(forms) < _ROUNDS and (decoded := unquote(forms[-1])) != forms[-1]:
        forms.append(decoded)
    return [*forms, *(small for form in forms if (small := _small(form)) != form)]


def parsed_form(uri: str) -> str | None:
    """The URI as the WHATWG parser writes it; None where that is the same, or where it is no absolute URL."""
    try:
        parsed = str(Url(uri))
    except ValueError:
        return None
    return parsed if parsed != uri else None


def _small(uri: str) -> str:
    head, separator, rest = uri.partition("://")
    if not separator:
        scheme, colon, rest = uri.partition(":")
        return scheme.lower() + colon + rest
    authority, slash, path = rest.partition("/")
    return f"{head.lower()}://{authority.lower()}{slash}{path}"


def _bare(uri: str) -> str:
    """The URI without user, query, fragment and a slash at the end: many servers look at host and path only."""
    return _USER.sub("://", re.split(r"[?#]", uri, maxsplit=1)[0].removesuffix("/"), count=1)


def _collapsed(uri: str) -> str:
    """The URI as a file system reads its path: several slashes are one."""
    head, separator, rest = uri.partition("://")
    return head + separator + _SLASHES.sub("/", rest) if separator else _SLASHES.sub("/", uri)


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
