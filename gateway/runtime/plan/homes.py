"""Who a server runs as, and where it can write: its home, its working directory, temporary files. Pure.

The root of a container is read-only. What a server writes elsewhere is memory with a size, and gone with the container.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from typing import Final

from gateway.runtime.engine.base import ImageInfo
from gateway.runtime.images.inside import Inside, has_own_user, usable
from registry.model.sources import HOME, ImageSource, LocalSource, PackageSource, ProjectSource

TMP_OPTIONS: Final = "rw,nosuid,nodev,exec,size=256m,mode=1777"
PASSAGE_SIZE: Final = "64k"
"""For a folder that only root could enter, so that the server gets through to what is mounted below it. Runtimes give a
tmpfs the mode of the folder in the image, so it is the owner that lets the server in."""
HIDDEN_OPTIONS: Final = "ro,nosuid,nodev,noexec,size=4k,mode=0755"
"""Over what is installed in a project's folder for this machine."""
HOME_SIZE: Final = "64m"
WORK_SIZE: Final = "256m"


def user_of(source: LocalSource, info: ImageInfo) -> str:
    """The user that the entry names, else the image's own if that is not root; empty: it gets one of its own."""
    if source.user:
        return source.user
    return info.user if isinstance(source, ImageSource) and has_own_user(info) else ""


def numeric_uid(user: str) -> int | None:
    """The uid in `UID` or `UID:GID`; None for a name, which only the image can explain."""
    uid = user.partition(":")[0]
    return int(uid) if uid.isdecimal() else None


def is_images_user(source: LocalSource, info: ImageInfo) -> bool:
    """Whether it runs as the image's own user."""
    return not source.user and bool(user_of(source, info))


def home_of(source: LocalSource, info: ImageInfo, inside: Inside) -> str:
    """The value of HOME: the image's own user's home, if there is one, else ours."""
    return (inside.home if is_images_user(source, info) else "") or HOME


def workdir_of(source: LocalSource, info: ImageInfo, inside: Inside, home: str) -> str:
    """The working directory; empty keeps the image's. Without one it is the home, where relative file names can be written,
    unless the command names a file of `/` by a relative path."""
    if isinstance(source, PackageSource):
        return home
    if isinstance(source, ProjectSource):
        return source.folder
    if source.workdir:
        return source.workdir
    return "" if usable(info.working_dir) or inside.starts_in_root else home


def tmpfs_of(
    source: LocalSource, info: ImageInfo, inside: Inside, user: str, home: str
) -> tuple[tuple[str, str], ...]:
    """Where it may write: temporary files, its home (of one with files in it, the folders that programs write to), an empty
    working directory of its user's, and what stands in for the image's volumes."""
    uid = numeric_uid(user)
    if uid is None:
        uid = inside.uid
    found = {path: owned(user, uid, WORK_SIZE) for path in unmounted_volumes(source, info)}
    found["/tmp"] = TMP_OPTIONS  # noqa: S108
    found |= dict.fromkeys(inside.hidden, HIDDEN_OPTIONS)
    found |= dict.fromkeys(inside.closed if uid else (), owned(user, uid, PASSAGE_SIZE))
    filled = is_images_user(source, info) and home == inside.home and inside.filled
    for path in () if is_mounted(home, source) else inside.caches if filled else (home,):
        found.setdefault(path, owned(user, uid, HOME_SIZE))
    if isinstance(source, ImageSource) and inside.empty_workdir and not source.user:
        found.setdefault(posixpath.normpath(info.working_dir), owned(user, uid, WORK_SIZE))
    return tuple((path, options) for path, options in found.items() if not is_mounted(path, source))


def owned(user: str, uid: int | None, size: str) -> str:
    """Mount options of a tmpfs that is one user's, or everybody's in there where its number is not known."""
    gid = user.partition(":")[2]
    owner = f"mode=0700,uid={uid},gid={gid if gid.isdecimal() else uid}" if uid is not None else "mode=1777"
    return f"rw,nosuid,nodev,exec,size={size},{owner}"


def is_mounted(path: str, source: LocalSource) -> bool:
    """Whether the entry mounts something at exactly that path."""
    return any(posixpath.normpath(mount.target) == path for mount in source.mounts)


def unmounted_volumes(source: LocalSource, info: ImageInfo) -> Sequence[str]:
    """The volumes that the image declares and that the entry does not mount something at. The engine would make each a
    directory on the host's disk, as large as that, and gone with the container."""
    mounted = {mount.target for mount in source.mounts}
    return [path for path in map(os.path.normpath, info.volumes) if path not in mounted]


def command_line(source: ImageSource, info: ImageInfo) -> tuple[str, ...]:
    """The whole command: the image's own parts where the entry names none (as the engine puts them together)."""
    entrypoint = source.entrypoint or info.entrypoint
    return (*entrypoint, *(source.command or (() if source.entrypoint else info.command)))
