"""Warnings about read-only mounts that a server's user cannot read: a folder of mode 0700, as `~/.aws` and `~/.kube` are."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from registry.model.errors import Finding, KeyPath
from registry.model.server import Server
from registry.model.sources import ImageSource, RemoteSource
from registry.model.spec import plan_source

NOBODY = -1
"""A uid that no file has: that of a server with a user of its own."""


class Access(NamedTuple):
    """What decides whether a server may use a mounted file or folder."""

    found: os.stat_result
    user: str
    """As the entry names it; empty: one of its own."""
    uid: int
    gid: int
    who: str
    """In words."""


def access_to(server: Server, source: str) -> Access | None:
    """None where nothing is known: an image's own user, what disappeared."""
    run = plan_source(server)
    if isinstance(run, RemoteSource) or (run.user is None and isinstance(run, ImageSource)):
        return None
    user, _, group = (run.user or "").partition(":")
    try:
        found = os.stat(source)
    except OSError:  # it disappeared after it was found
        return None
    return Access(
        found, user, int(user or NOBODY), int(group or 0), f"as user {user}" if user else "as a user of its own"
    )


def warn_unreadable(server: Server, source: str, where: KeyPath) -> Iterator[Finding]:
    """A file or folder that the server may not read. (An image's own user is not known.)"""
    access = access_to(server, source)
    if access is None or may_read(access.found, access.uid, access.gid):
        return
    found = access.found
    others = f"Let others read it (chmod -R o+rX {source})"
    hint = f'{others}, or write user: "{found.st_uid}:{found.st_gid}"' if found.st_uid else others
    yield Finding(where, f"the server runs {access.who}, who may not read {source}", hint)


def may_read(found: os.stat_result, user: int, group: int) -> bool:
    """Whether the mode lets this user, who has no capability, read a file, or list and enter a folder."""
    shift = 6 if user == found.st_uid else 3 if group == found.st_gid else 0
    needed = 0o5 if stat.S_ISDIR(found.st_mode) else 0o4
    return user == 0 == found.st_uid or (found.st_mode >> shift) & needed == needed
