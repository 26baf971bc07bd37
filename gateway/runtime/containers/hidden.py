"""What a mounted folder does not show: the files and folders that a `.stockadeignore` names, in it or in a folder above it.

The patterns are those of `.gitignore`. What matches when the container is made is covered: a folder by an empty one, a file
by `/dev/null`. A mount is a fact of the container, so what is made later shows until the container is recreated.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from pathspec import GitIgnoreSpec

from gateway.runtime.engine.base import ContainerPlan, Mount
from gateway.runtime.images.ignore_file import IGNORE_FILE, wrong_line
from gateway.runtime.sandbox.errors import PlanError

MOST_FILE: Final = 64 * 1024
"""Bytes of an ignore file."""
MOST_ENTRIES: Final = 200_000
"""Files and folders that are looked at below one mount."""
MOST_HIDDEN: Final = 256
"""Each is a mount of the container."""
MOST_MATCHES: Final = 10_000_000
"""Patterns times files: some seconds of work."""
COVER: Final = "ro,nosuid,nodev,noexec,size=4k,mode=0555"
NOTHING: Final = "/dev/null"


@dataclass(frozen=True, slots=True)
class Patterns:
    """One ignore file: its patterns, for paths from its folder on."""

    file: str
    inner: str
    """The mounted folder, from the ignore file's folder on; empty: the same."""
    spec: GitIgnoreSpec

    def match(self, path: str, *, folder: bool) -> bool:
        """Whether it hides this path, given from the mounted folder on."""
        return self.spec.match_file(f"{os.path.join(self.inner, path)}{'/' if folder else ''}")


def hiding(plan: ContainerPlan) -> ContainerPlan:
    """The plan with what its mounts hide covered, as it is now. Reads the disk. Raises PlanError with the next step.

    Where the server may write, the ignore file itself is covered too: else it could show itself more at the next start.
    """
    taken = {mount.target for mount in plan.mounts} | {path for path, _ in plan.tmpfs}
    folders: dict[str, str] = {}
    files: dict[str, Mount] = {}
    for mount in plan.mounts:
        if mount.volume or not os.path.isdir(mount.source):
            continue
        for path, folder in matching(mount.source):
            inner = str(PurePosixPath(mount.target) / path)
            if folder:
                folders[inner] = COVER
            else:
                files[inner] = Mount(source=NOTHING, target=inner)
            if len(folders) + len(files) > MOST_HIDDEN:
                raise PlanError(
                    f"More than {MOST_HIDDEN} files and folders of {mount.source} are hidden, and each is a mount. Name "
                    f"whole folders in {IGNORE_FILE} (such as `secrets/`) instead of the files in them."
                )
        inner = f"{mount.target}/{IGNORE_FILE}"
        if not mount.read_only and os.path.lexists(os.path.join(mount.source, IGNORE_FILE)):
            files[inner] = Mount(source=NOTHING, target=inner)
    tmpfs = ((path, options) for path, options in folders.items() if path not in taken)
    mounts = (mount for path, mount in files.items() if path not in taken)
    return replace(plan, tmpfs=(*plan.tmpfs, *tmpfs), mounts=(*plan.mounts, *mounts))


def matching(source: str) -> Iterator[tuple[str, bool]]:
    """(path from the folder on, whether it is a folder) of what is hidden; nothing is looked for in a hidden folder."""
    patterns = list(all_patterns(source))
    weight = sum(len(one.spec) for one in patterns)
    waiting = [""] if patterns else []
    seen = 0
    while waiting:
        inner = waiting.pop()
        for entry in entries_of(os.path.join(source, inner)):
            seen += 1
            if seen > MOST_ENTRIES or seen * weight > MOST_MATCHES:
                raise PlanError(
                    f"{source} has too many files to look for what {patterns[0].file} hides ({seen} so far, {weight} "
                    "patterns). Mount a smaller folder, or write fewer patterns."
                )
            path = os.path.join(inner, entry.name)
            folder = entry.is_dir(follow_symlinks=False)
            if entry.is_symlink():
                continue  # what it leads to is judged where it is
            if any(one.match(path, folder=folder) for one in patterns):
                yield path, folder
            elif folder:
                waiting.append(path)


def all_patterns(source: str) -> Iterator[Patterns]:
    """The ignore files of a folder and of those above it: as its path is written, and where it leads."""
    for top in dict.fromkeys((source, os.path.realpath(source))):
        for folder in (top, *map(str, Path(top).parents)):
            found = patterns_of(folder, "" if folder == top else os.path.relpath(top, folder))
            if found is not None:
                yield found


def patterns_of(folder: str, inner: str) -> Patterns | None:
    """The ignore file of a folder, if it has one. Raises PlanError for one that cannot be used."""
    path = os.path.join(folder, IGNORE_FILE)
    try:
        read = content_of(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PlanError(f"{path} cannot be read: {error.strerror}. Nothing is mounted before it can.") from None
    if len(read) > MOST_FILE:
        raise PlanError(f"{path} is larger than {MOST_FILE // 1024} KiB. Make it shorter.")
    try:
        written = read.decode().splitlines()
    except UnicodeDecodeError:
        raise PlanError(f"{path} is not UTF-8 text. Write one pattern on each line, as in .gitignore.") from None
    if wrong := wrong_line(path, written):
        raise PlanError(wrong)
    spec = GitIgnoreSpec.from_lines(written)
    return Patterns(path, inner, spec) if any(one.include is not None for one in spec.patterns) else None


def content_of(path: str) -> bytes:
    """What a file has, if it is a file: a server may have put a link or a pipe there. Raises OSError, PlanError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise PlanError(f"{path} is no file. Remove it, or make it one with a pattern on each line.")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(MOST_FILE + 1)
    finally:
        os.close(descriptor)


def entries_of(folder: str) -> list[os.DirEntry[str]]:
    """What lies in a folder. Raises PlanError: what cannot be looked at might have to be hidden."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []  # gone meanwhile
    except OSError as error:
        raise PlanError(
            f"{folder} cannot be looked into for what {IGNORE_FILE} hides: {error.strerror}. Let the user that runs "
            f"Stockade read it, or name the whole folder in {IGNORE_FILE}."
        ) from None
