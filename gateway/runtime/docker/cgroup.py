"""Buffers of sockets under cgroup v1: a limit that the engine may take and its runtime (runc since 1.0) ignores.

Version 1 counts what sockets buffer, TCP and UDP alike, in a separate counter that has no limit by default and counts only
sockets that were made after it got one. So the limit is written here, into the container's group before its first
program runs. That takes root, and an engine that makes the groups itself (`cgroupfs`); elsewhere it is written once
the container runs, and where even that is not allowed `doctor` says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/sys/fs/cgroup/memory")
PARENT: Final = "docker"
LIMIT: Final = "memory.kmem.tcp.limit_in_bytes"
NO_LIMIT: Final = 1 << 62
"""The kernel writes a little less than 2**63 for none."""


@contextlib.contextmanager
def limited_from_the_start(container: str, limit: int, root: Path = MEMORY) -> Iterator[None]:
    """Makes the group of a container that is about to be started, with the limit; takes it away if that fails."""
    directory = root / PARENT / container
    try:
        directory.parent.mkdir(exist_ok=True)
        directory.mkdir(exist_ok=True)
        write_limit(directory, limit)
    except OSError:
        pass  # not root: `bounds_sockets` reports it
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            directory.rmdir()
        raise


def limit_now(container: str, pid: int, limit: int) -> None:
    """Limits the group of a running container if it has no limit and we may; sockets that it has stay uncounted."""
    directory = group_of(container, pid)
    if directory is not None and not is_bounded(container, pid):
        with contextlib.suppress(OSError):
            write_limit(directory, limit)


def write_limit(directory: Path, limit: int) -> None:
    """Raises OSError where that is not allowed."""
    (directory / LIMIT).write_text(str(limit))


def is_bounded(container: str, pid: int, root: Path = MEMORY, proc: Path = Path("/proc")) -> bool:
    """Whether what the sockets of a running container buffer is bounded, by a limit of its group's or by its memory."""
    if not root.is_dir():
        return True  # v2
    directory = group_of(container, pid, root, proc)
    try:
        return directory is not None and int((directory / LIMIT).read_text()) < NO_LIMIT
    except (OSError, ValueError):
        return False


def group_of(container: str, pid: int, root: Path = MEMORY, proc: Path = Path("/proc")) -> Path | None:
    """The memory group of a container whose first process has that number; None where it is not known."""
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(",") and container in path:  # the number may be another process's here
            return root / path.lstrip("/")
    return None
