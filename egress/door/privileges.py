"""Giving up every privilege, for good.

Standard library only: the door and the connector run on it.
"""

from __future__ import annotations

import ctypes
import os
import struct

PLAIN_USER = 65532
"""`nonroot` of the distroless images; owns nothing. Used by a door that was given no user of its own."""

PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
CAP_VERSION_3 = 0x20080522
LAST_CAPABILITY = 63


def drop_privileges(uid: int = PLAIN_USER) -> list[str]:
    """Become user and group `uid`, with no capability in any set, the bounding set included (capabilities(7)).

    Returns what could not be done, as sentences; the caller decides whether it can live with them. Whatever
    else fails, the effective, permitted and inheritable sets are empty afterwards and nothing can be regained
    by executing a file.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    notes = _drop_bounding_set(libc)
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    notes += _become(uid)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        notes.append(_failure("no_new_privs was not set"))
    header = struct.pack("=Ii", CAP_VERSION_3, 0)
    if libc.capset(header, bytes(24)) != 0:
        notes.append(_failure("the capability sets were not emptied"))
    return notes


def _drop_bounding_set(libc: ctypes.CDLL) -> list[str]:
    for capability in range(LAST_CAPABILITY + 1):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            # EINVAL: past the last capability that this kernel knows.
            return [] if ctypes.get_errno() == 22 else [_failure("the bounding set was not emptied")]
    return []


def _become(uid: int) -> list[str]:
    if os.getuid() == uid:
        return []
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        return [f"user stays {os.getuid()}: {error.strerror}"]
    return []


def _failure(what: str) -> str:
    return f"{what}: {os.strerror(ctypes.get_errno())}"
