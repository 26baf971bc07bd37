"""Puts a server's secret files into its container: in memory, with nothing of them in any plan, image or `docker inspect`.

An archive cannot be put into a tmpfs of a container (the engine's copy looks below it). So each folder of such files is a
volume without a name that is a tmpfs: it is mounted while a container that has it runs, and its content is gone with the
last of them. A short-lived container of ours is started first, with the same volumes: it reads the files on its standard
input, writes them and keeps the volumes mounted until the server runs. The folders are root's: the server adds no file.
This happens before each start of the server's container, since what was there is gone then.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import posixpath
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final

from gateway.runtime.engine.base import ContainerPlan, Mount
from gateway.runtime.engine.seccomp import backend_profile
from gateway.runtime.inventory.context import RuntimeContext, owned
from gateway.runtime.inventory.record import Role
from gateway.runtime.plan.plans import MIB, Names
from gateway.runtime.sandbox.errors import EngineError
from gateway.runtime.sandbox.log_ring import LogLine

PLACE_TIMEOUT_S: Final = 30.0
READY: Final = b"ready"
SCRIPT: Final = """\
import base64, contextlib, json, os, sys
given = json.loads(sys.stdin.readline())
for folder, name, text in given["files"]:
    path = f"/files/{folder}/{name}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
    with open(handle, "wb") as file:
        file.write(base64.b64decode(text))
        file.flush()
        os.fchmod(handle, 0o400)
        os.fchown(handle, given["uid"], given["gid"])
print("ready", flush=True)
sys.stdin.read()
"""


class FilledFiles:
    """A server's secret files with their contents, which are known for one start at a time."""

    def __init__(self, fill: Callable[[], Mapping[str, str]]) -> None:
        """`fill` fills in the references; it may run commands, so it is called in a thread. Raises ConfigError."""
        self.fill = fill
        self.fresh: Mapping[str, str] | None = None

    async def look(self) -> Mapping[str, str]:
        """The contents by path, as they are now; the next `take` has the same."""
        self.fresh = await asyncio.to_thread(self.fill)
        return self.fresh

    def forget(self) -> None:
        """The next `take` fills them in again."""
        self.fresh = None

    async def take(self) -> Mapping[str, str]:
        """The contents by path, for one start."""
        found, self.fresh = self.fresh, None
        return found if found is not None else await asyncio.to_thread(self.fill)

    def __repr__(self) -> str:
        return "FilledFiles()"


def memory_in(plan: ContainerPlan) -> tuple[Mount, ...]:
    """The folders of secret files."""
    return tuple(mount for mount in plan.mounts if mount.memory)


def placing_plan(names: Names, instance: str, image: str, volumes: Sequence[str]) -> ContainerPlan:
    """The container that writes into these volumes; what it writes is not in it."""
    mounts = (
        Mount(source=volume, target=f"/files/{at}", read_only=False, volume=True) for at, volume in enumerate(volumes)
    )
    return ContainerPlan(
        name=names.files(instance),
        image=image,
        command=("python3", "-c", SCRIPT),
        user="0:0",
        labels=names.labels("owner", instance),
        capabilities=("CHOWN",),
        mounts=tuple(mounts),
        memory_bytes=64 * MIB,
        pids=16,
        init=False,
        stdin=True,
        keep_output=False,
        seccomp=backend_profile(),
    )


def order_of(files: Mapping[str, str], folders: Sequence[str], owner: str) -> bytes:
    """The line that the container reads."""
    uid, _, gid = owner.partition(":")
    listed = [
        [
            folders.index(posixpath.dirname(path)),
            posixpath.basename(path),
            base64.b64encode(text.encode("utf-8", "surrogateescape")).decode(),
        ]
        for path, text in files.items()
    ]
    return json.dumps({"uid": int(uid), "gid": int(gid), "files": listed}).encode() + b"\n"


@contextlib.asynccontextmanager
async def placed(
    context: RuntimeContext, instance: str, container: str, folders: Sequence[Mount], files: FilledFiles
) -> AsyncIterator[None]:
    """Within it the files are in the volumes at `folders` of a container that does not run yet: start it there.

    Raises EngineError, ConfigError.
    """
    if not folders:
        yield
        return
    info = await context.engine.inspect(container)
    volumes = dict(info.volumes) if info is not None else {}
    order = order_of(await files.take(), [mount.target for mount in folders], folders[0].owner)
    plan = placing_plan(context.names, instance, context.doors_image(), [volumes[mount.target] for mount in folders])
    helper = await context.ownership.create(plan, owned(plan.name, Role.OWNER, instance))
    try:
        async with written(context, helper, instance, order):
            yield
    finally:
        await context.ownership.tidy(plan.name)
        context.exits.forget(helper)


@contextlib.asynccontextmanager
async def written(context: RuntimeContext, helper: str, instance: str, order: bytes) -> AsyncIterator[None]:
    """Starts the container and gives it its line; within it the files are there. Raises EngineError."""
    said: list[str] = []

    def keep(line: LogLine) -> None:
        said[:] = [line.text]  # of Python's last words; the contents are in none of its errors

    attachment = await context.engine.attach(helper, stdin=True, on_line=keep, stdout_lines=False)
    try:
        await context.engine.start(helper)
        try:
            async with asyncio.timeout(PLACE_TIMEOUT_S):
                attachment.writer.write(order)
                await attachment.writer.drain()
                answer = await attachment.reader.readline()
        except (OSError, TimeoutError, ValueError):
            answer = b""
        if answer.strip() != READY:
            raise EngineError(
                f"The secret files of {instance} could not be written: {' '.join(said) or 'no answer'}."
            )
        yield
    finally:
        await attachment.close()
