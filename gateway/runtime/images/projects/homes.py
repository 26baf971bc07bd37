"""Folders of which only a part can be one project: homes, whole disks, and what holds the folders of many."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import re
from typing import Final

HOME: Final = re.compile(
    r"(?:/home|/var/home|/export/home|/usr/home|/Users|/System/Volumes/Data/Users|/mnt/[a-z]/Users)(?:/[^/]+)?",
    re.IGNORECASE,
)
"""Homes by their place, and the folders of homes: of Linux, of macOS, of Windows as WSL shows it."""
OF_MANY: Final = frozenset(
    {"/data", "/media", "/mnt", "/opt", "/srv", "/usr/local", "/usr/src", "/var/www", "/Volumes"}
)


def is_of_more(folder: str) -> bool:
    """Whether a folder above a program is surely of more than its project, as it is named or where its links lead.

    A manifest in it is a stray one: a `package.json` left in a home is no wish to show that home to a server.
    """
    named = {folder, os.path.realpath(folder)}
    if any(path in OF_MANY or path in homes_of_accounts() or HOME.fullmatch(path) for path in named):
        return True
    return is_home_of_owner(folder) or (os.path.ismount(folder) and not os.path.exists(f"{folder}/.git"))


@functools.cache
def homes_of_accounts() -> frozenset[str]:
    """The homes that this machine's accounts have; of a directory service perhaps not all."""
    return frozenset(os.path.normpath(account.pw_dir) for account in pwd.getpwall() if account.pw_dir.startswith("/"))


def is_home_of_owner(folder: str) -> bool:
    """Whether a folder is its owner's home: also of an account that is new, or that is not listed."""
    with contextlib.suppress(OSError, KeyError):
        home = pwd.getpwuid(os.stat(folder).st_uid).pw_dir
        return home.startswith("/") and os.path.realpath(home) == os.path.realpath(folder)
    return False
