"""What is inside an image that its description does not say: its user's home, and what lies there.

A container of it is created and never started; some paths are read from it, bounded. Whatever cannot be read is unknown.
"""

from __future__ import annotations

import io
import logging
import posixpath
import re
import secrets
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.runtime.engine.base import Builder, ContainerPlan, ImageInfo
from gateway.runtime.images import recipes
from gateway.runtime.images.stages import housekeeping
from gateway.runtime.sandbox.errors import EngineError

logger = logging.getLogger(__name__)

ACCOUNTS: Final = "/etc/passwd"
MOST: Final = 256 * 1024
"""Bytes that are read of one path."""
WORDS: Final = 16
"""Words of a command that are looked for in the image's `/`."""
CACHES: Final = (".cache", ".config", ".local/share", ".local/state", ".npm")
"""Where programs write below a home."""
DEFAULTS: Final = frozenset((".bashrc", ".bash_logout", ".bash_profile", ".profile", ".kshrc", ".zshrc"))
"""Files that every account of a distribution has; nothing is lost where they are hidden."""
TOP: Final = frozenset("bin boot dev etc home lib lib64 media mnt opt proc root run sbin srv sys tmp usr var".split())
KERNELS: Final = ("dev", "proc", "sys")
RELATIVE: Final = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_./-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What was found."""

    uid: int | None = None
    """The uid of the image's own user."""
    home: str = ""
    """That user's home; empty where there is none to use (`/`, a path that does not exist)."""
    filled: bool = False
    """The home has files in the image, which may be the program itself."""
    caches: tuple[str, ...] = ()
    """With a filled home: the paths of `CACHES` in it that have no files."""
    empty_workdir: bool = False
    """The image's WORKDIR is its user's, and nothing lies in it."""
    starts_in_root: bool = False
    """The command names a file of the image's `/` by a relative path."""
    closed: tuple[str, ...] = ()
    """Folders above the entry's mounts that only root can enter: in most images /root, which is 0700."""
    hidden: tuple[str, ...] = ()
    """Folders of a mounted project that something empty is mounted over."""


async def look_inside(
    engine: Builder, image: str, info: ImageInfo, command: Sequence[str], targets: Sequence[str] = ()
) -> Inside:
    """What an image holds; `command` is the program with its arguments, `targets` where the entry mounts something.

    Nothing is known where the engine refuses.
    """
    plan = ContainerPlan(
        name=f"stockade-build-look-{secrets.token_hex(6)}",
        image=image,
        command=("true",),
        labels=((recipes.STAGE_LABEL, "look"),),
    )
    try:
        container = await engine.create(plan)
    except EngineError as error:
        logger.warning("image %s could not be looked into: %s", image, error)
        return Inside()
    try:
        found = await found_in(engine, container, info, command)
        return replace(found, closed=await closed_in(engine, container, targets))
    except EngineError as error:
        logger.warning("image %s could not be looked into: %s", image, error)
        return Inside()
    finally:
        with housekeeping(f"the container {plan.name}"):
            await engine.remove(container)


async def found_in(engine: Builder, container: str, info: ImageInfo, command: Sequence[str]) -> Inside:
    """Reads what `Inside` says. Raises EngineError."""
    own = has_own_user(info)
    accounts = content(await engine.archive(container, ACCOUNTS, MOST)) if own else ""
    uid, home = account(accounts, info.user) if own else (0, "")
    home = usable(dict(info.env).get("HOME") or home) if own else ""
    lying = await engine.archive(container, home, MOST) if home else None
    filled = lying is not None and holds_files(lying)
    caches = [path for name in CACHES if (path := f"{home}/{name}") and filled]
    free = [path for path in caches if not holds_files(await engine.archive(container, path, MOST) or b"")]
    workdir = await engine.archive(container, info.working_dir, MOST) if usable(info.working_dir) else None
    starts_in_root = False
    if not usable(info.working_dir):
        for path in relative_files(command):
            starts_in_root = starts_in_root or await engine.archive(container, path, 1024) is not None
    return Inside(
        uid=uid,
        home=home,
        filled=filled,
        caches=tuple(free),
        empty_workdir=workdir is not None and owner(workdir) == uid and not holds_files(workdir),
        starts_in_root=starts_in_root,
    )


async def closed_in(engine: Builder, container: str, targets: Sequence[str]) -> tuple[str, ...]:
    """The outermost folders above these paths that only root can enter. Raises EngineError."""
    found: list[str] = []
    for folder in above(targets):
        if not any(folder.startswith(f"{outer}/") for outer in found):
            top = next(entries(await engine.archive(container, folder, 1024) or b""), None)
            if top is not None and top.isdir() and top.uid == 0 and not top.mode & 0o001:
                found.append(folder)
    return tuple(found)


def above(targets: Sequence[str]) -> list[str]:
    """Every folder above these paths but `/`, outer ones first."""
    folders = {
        "/".join(parts[:end]) for path in targets for parts in [path.split("/")] for end in range(2, len(parts))
    }
    return sorted(folders, key=lambda folder: (folder.count("/"), folder))


def has_own_user(info: ImageInfo) -> bool:
    """Whether the image names a user that is not root."""
    return info.user.partition(":")[0].strip("0") not in ("", "root")


def usable(path: str) -> str:
    """An absolute path below `/`, or nothing: none of the kernel's, nor root's. Debian writes `/nonexistent` for no home."""
    clean = posixpath.normpath(path) if path.startswith("/") else "/"
    return "" if clean in ("/", "//", "/nonexistent", "/root") or clean.split("/")[1] in KERNELS else clean


def account(accounts: str, user: str) -> tuple[int | None, str]:
    """(uid, home) of a user, given by name or number, in the text of a passwd(5) file; (None, "") for a name not in it."""
    wanted = user.partition(":")[0]
    for line in accounts.splitlines():
        fields = line.split(":")
        if len(fields) >= 6 and fields[2].isdecimal() and wanted in (fields[0], fields[2]):
            return int(fields[2]), fields[5]
    return (int(wanted) if wanted.isdecimal() else None), ""


def relative_files(command: Sequence[str]) -> list[str]:
    """The paths in `/` that a command may mean by its words."""
    words = [word for argument in command for word in argument.split()][:WORDS]
    names = [word.removeprefix("./") for word in words if RELATIVE.fullmatch(word) and ".." not in word]
    return [
        f"/{path}" for name in names if name and name not in TOP for path in (name, f"{name.replace('.', '/')}.py")
    ]


def entries(archive: bytes) -> Iterator[tarfile.TarInfo]:
    """The entries of a tar archive, as far as it goes; the first is the path that was asked for."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r|") as tar:
            yield from tar
    except tarfile.TarError:
        return


def holds_files(archive: bytes) -> bool:
    """Whether anything but folders and an account's default files is in it."""
    return any(not entry.isdir() and posixpath.basename(entry.name) not in DEFAULTS for entry in entries(archive))


def owner(archive: bytes) -> int | None:
    """The uid that owns the path."""
    return next((entry.uid for entry in entries(archive)), None)


def content(archive: bytes | None) -> str:
    """The text of the one file in it; empty where it is none."""
    if archive is None:
        return ""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            member = tar.getmembers()[0]
            file = tar.extractfile(member) if member.isreg() else None  # what a link of an image leads to is not read
            return file.read(MOST).decode(errors="replace") if file else ""
    except (tarfile.TarError, IndexError, KeyError):
        return ""
