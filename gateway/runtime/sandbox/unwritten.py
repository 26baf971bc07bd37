"""Where a server's own words say that it could not use a path: which path, and the line of its entry that helps. Pure.

A server's words are read for advice to people only; nothing is decided by them. No advice opens more than the entry names:
`storage` is a volume of the server's own, and a folder of this machine is advised only where the entry has its path already.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from registry.model.errors import Invalid
from registry.model.mount_risks import refuse_forbidden
from registry.model.mounts import Mount, covers
from registry.model.sources import HOME, ImageSource, LocalSource
from registry.model.storage import check_storage

READ: Final = 16 * 1024
"""Characters that are read at each end of a text."""
NEAR: Final = 400
"""Characters that are read around the words in a line."""


class Why(Enum):
    """Why a path could not be used."""

    READ_ONLY = "read-only"
    FULL = "full"
    FORBIDDEN = "forbidden"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Unusable:
    """What the words say."""

    why: Why
    path: str = ""
    """As they name it; empty where they name none."""


PATH: Final = r"[\w.@+~/-]{1,200}"
SIGNS: Final = (
    (Why.READ_ONLY, re.compile(r"\bEROFS\b|read-only file ?system|readonly database|\bos error 30\b", re.I)),
    (Why.FULL, re.compile(r"\bENOSPC\b|no space left on device|database or disk is full|\bEDQUOT\b", re.I)),
    (Why.FORBIDDEN, re.compile(r"\bEACCES\b|permission denied|AccessDeniedException|not write?able", re.I)),
    (
        Why.MISSING,
        re.compile(r"\bENOENT\b|no such file or directory|does not exist|cannot access dir|not found", re.I),
    ),
)
OTHER: Final = re.compile(
    r"\bspawn(?:Sync)? \S+ E[A-Z]+\b|\b(?:connect|listen|bind) E[A-Z]+\b"
    r"|\bE[A-Z]{1,20}: [^,]{0,200}, (?:connect|spawn|listen|bind)\b|publickey"
)
"""Errors of the same name about programs and sockets."""
QUOTED: Final = re.compile(rf"""(?P<quote>['"`])(?P<path>{PATH})(?P=quote)|\u2018(?P<typeset>{PATH})\u2019""")
BARE: Final = re.compile(r"(?<![\w.:/@~'\"-])/[\w.@+~/-]{1,200}")


def unusable(text: str, *, missing: bool = False) -> Unusable | None:
    """What a text says of a path that could not be written or, where `missing`, that was not found."""
    if len(text) > 2 * READ:
        text = f"{text[:READ]}\n{text[-READ:]}"
    for why, sign in SIGNS if missing else SIGNS[:-1]:
        found = [Unusable(why, path) for line in text.splitlines() if (path := said(line, sign)) is not None]
        if why in (Why.FORBIDDEN, Why.MISSING):  # also said of other things than files
            found = [one for one in found if one.path]
        if found:
            return next((one for one in reversed(found) if one.path), found[-1])
    return None


def said(line: str, sign: re.Pattern[str]) -> str | None:
    """The path that a line is about, the first after the words of `sign`, else the last before them; empty: it names none.
    None where the line has no such words."""
    match = sign.search(line)
    if match is None:
        return None
    start = max(0, match.start() - NEAR)
    near, middle = line[start : match.end() + NEAR], match.start() - start
    if OTHER.search(near):
        return None
    places = [(found.start(), found["path"] or found["typeset"]) for found in QUOTED.finditer(near)]
    places = [place for place in places if "/" in place[1] or "." in place[1]]
    places = sorted(places + [(found.start(), found[0]) for found in BARE.finditer(near)])
    after = [path for at, path in places if at >= middle]
    before = [path for at, path in places if at < middle]
    return (after[:1] or before[-1:] or [""])[0].rstrip(".")


@dataclass(frozen=True, slots=True)
class Advice:
    """What is so, and what a person can do about it (empty: nothing); clauses without a full stop."""

    what: str
    do: str = ""
    place: str = ""
    """The folder of this machine that it is about: for people only, any client of the server may read the rest."""


def advice(found: Unusable, source: LocalSource) -> Advice | None:
    """What the entry can say about it; None where it can say nothing."""
    path, mount = found.path, mount_of(found.path, source.mounts)
    if found.why is Why.MISSING:
        return missing(path, source) if mount is None else None
    if found.why is Why.FULL:
        return full(path, source, mount)
    if mount is not None:
        return read_only(path, mount) if found.why is Why.READ_ONLY else denied(path, mount)
    where = path or "anything but its home and /tmp"
    if found.why is Why.FORBIDDEN:
        return Advice(f"the user that it runs as may not use {where} in its container", keeping(path, source))
    return Advice(f"it cannot write to {where} in its container", keeping(path, source))


def full(path: str, source: LocalSource, mount: Mount | None) -> Advice:
    """Where no space is left."""
    if mount is not None:
        disk = "the container engine's disk" if mount.volume else "a disk of this machine"
        return Advice(f"{path} is on {disk}, which is full", place="" if mount.volume else mount.source)
    what = f"{path or 'where it writes'} is memory of a fixed size, which is full"
    home = not isinstance(source, ImageSource) and (not path or covers(HOME, path))
    return Advice(what, keeping(f"{HOME}/x" if home else path, source))


def read_only(path: str, mount: Mount) -> Advice:
    """What is mounted and cannot be written."""
    if not mount.read_only:
        return Advice(f"{path} is on a disk of this machine that is read-only")
    return Advice(f"{path} is in {mount.target}, which is mounted with `:ro`", "leave out that `:ro` if it may write")


def denied(path: str, mount: Mount) -> Advice:
    """What is mounted, and belongs to another user."""
    if mount.storage:
        return Advice(f"the user that it runs as may not use {path}, which is in its storage")
    if mount.volume:
        whose = f"{path} is in the volume {mount.source}, whose files belong to another user"
        return Advice(whose, f"write `storage: {mount.target}` instead of that mount")
    do = "write a `user:` who may, or let others use it (chmod)"
    place = mount.source if mount.source != mount.target else ""
    return Advice(f"the user that it runs as may not use {path}", do, place)


def missing(path: str, source: LocalSource) -> Advice | None:
    """A path that the entry names and its container does not have."""
    words = [
        word.partition("=")[2] if word.startswith("-") else word for word in (*source.args, *source.env.values())
    ]
    named = next((word for word in words if word.startswith("/") and covers(word.rstrip("/"), path)), "")
    if not named or "$" in named:
        return None
    try:
        refuse_forbidden(path)
        refuse_forbidden(named)
    except Invalid:
        return None
    return Advice(
        f"{path} is not in its container, and its entry names it",
        f'write `mounts: ["{named}:{named}:ro"]` in its entry',
    )


def keeping(path: str, source: LocalSource) -> str:
    """How a path becomes writable, and kept; where that path cannot be kept, another."""
    folder = path if path.count("/") == 1 and "." not in path else path.rpartition("/")[0]
    try:
        kept = "" if covers("/tmp", path) else check_storage(folder)  # noqa: S108 - compared
    except Invalid:
        kept = ""
    has = [mount.target for mount in source.mounts if mount.storage]
    if has and not kept:
        return f"let it write below {has[0]}, which is kept"
    wanted = f"[{', '.join([*has, kept])}]" if has else kept or "/data"
    return f"write `storage: {wanted}` in its entry{'' if kept else ', and let it write there'}"


def mount_of(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """The innermost mount that has the path."""
    return max(
        (mount for mount in mounts if covers(mount.target, path)), key=lambda mount: len(mount.target), default=None
    )


def for_people(found: Unusable | None, source: LocalSource) -> str:
    """A sentence for the person who keeps the entry; empty where there is no advice."""
    told = advice(found, source) if found is not None else None
    if told is None:
        return ""
    what = f"{told.what} ({told.place} on this machine)" if told.place else told.what
    return f"{what[0].upper()}{what[1:]}{f': {told.do}' if told.do else ''}."


def for_model(found: Unusable | None, source: LocalSource, backend: str) -> str:
    """As `for_people`, for the model whose call failed by it: it can only ask."""
    told = advice(found, source) if found is not None else None
    if told is None:
        return ""
    ask = f" If the task needs it, ask the user to {told.do}." if told.do else ""
    return f"Stockade, about server {backend}: {told.what}.{ask}"
