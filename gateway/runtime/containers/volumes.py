"""Volumes that a server stores its files in: the engine creates them as root's, and no server runs as root.

A short-lived container of ours, with CHOWN and nothing else, gives the top folder of each to the server. The content of a
volume that several servers may mount is not touched. What a server keeps alone (`storage`) becomes its own as a whole, where
the top folder is not: files that the image brought there, or that it wrote as another user. It runs each time the
server's container was made, which sets the owner back to the image's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gateway.runtime.engine.base import ContainerPlan, Mount
from gateway.runtime.engine.seccomp import backend_profile
from gateway.runtime.inventory.context import RuntimeContext, owned, start_watched
from gateway.runtime.inventory.record import Role
from gateway.runtime.plan.plans import MIB, Names
from gateway.runtime.sandbox.errors import EngineError
from registry.model.mount_risks import Risk
from registry.model.sources import LocalSource

logger = logging.getLogger(__name__)

GIVE_TIMEOUT_S: Final = 30.0
SCRIPT: Final = """\
import contextlib, os, sys
uid, gid = map(int, sys.argv[1:3])

def own(name, folder):
    with contextlib.suppress(OSError):
        os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False)

def give(name, folder, depth=0):
    try:
        if os.stat(name, dir_fd=folder, follow_symlinks=False).st_uid == uid:
            return
        os.chown(name, 0, 0, dir_fd=folder, follow_symlinks=False)
        found = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    except OSError:
        return own(name, folder)
    try:
        with contextlib.suppress(OSError), os.scandir(found) as entries:
            for entry in entries:
                if depth < 200 and entry.is_dir(follow_symlinks=False):
                    give(entry.name, found, depth + 1)
                else:
                    own(entry.name, found)
    finally:
        os.fchown(found, uid, gid)
        os.close(found)

for path in sys.argv[3:]:
    owner = os.lstat(path).st_uid
    if path.startswith("/storage/") and owner != uid:
        give(path, None)
    elif owner == 0:
        os.lchown(path, uid, gid)
"""
"""No capability but CHOWN: a folder is root's for the moment in which root lists it. It is given after all that is in it,
so what was interrupted goes on where it was. One entry that cannot be given keeps no other from it."""


def to_give(names: Names, source: LocalSource, plan: ContainerPlan, *, ours: bool) -> tuple[Mount, ...]:
    """The volumes of a server's container to look at: its storage and, where its user is one of ours, the project's volumes
    that it may write in. Other volumes keep the owner that they have."""
    own = (mount for mount in source.mounts if mount.volume and Risk.FOREIGN_VOLUME not in mount.accepted)
    shared = {names.volume(mount.source) for mount in own if ours and not mount.storage and not mount.read_only}
    return tuple(
        mount
        for mount in plan.mounts
        if mount.volume and not mount.memory and (mount.owner or mount.source in shared)
    )


def giving_plan(names: Names, instance: str, image: str, user: str, volumes: Sequence[Mount]) -> ContainerPlan:
    """The container that gives volumes to a user, written `UID:GID`."""
    mounts = tuple(
        replace(volume, target=f"{'/storage' if volume.owner else '/volumes'}/{number}", read_only=False)
        for number, volume in enumerate(volumes)
    )
    return ContainerPlan(
        name=names.owner(instance),
        image=image,
        command=("python3", "-c", SCRIPT, *user.split(":"), *(mount.target for mount in mounts)),
        user="0:0",
        labels=names.labels("owner", instance),
        capabilities=("CHOWN",),
        mounts=mounts,
        memory_bytes=64 * MIB,
        pids=16,
        init=False,
        seccomp=backend_profile(),
    )


async def give_volumes(context: RuntimeContext, instance: str, user: str, volumes: Sequence[Mount]) -> None:
    """Gives these volumes to `user`: of the shared ones those that are root's.

    Where that fails the server still starts: it may not need to write there. Raises EngineError when the engine fails.
    """
    plan = giving_plan(context.names, instance, context.doors_image(), user, volumes)
    container = await context.ownership.create(plan, owned(plan.name, Role.OWNER, instance))
    try:
        ended = await start_watched(context.engine, context.exits, container)
        async with asyncio.timeout(GIVE_TIMEOUT_S):
            code = await asyncio.shield(ended)
        if code != 0:
            said = " / ".join(line.text for line in await context.engine.logs(container, 1))
            logger.warning("%s: its volumes could not be given to user %s: %s", instance, user, said)
    except TimeoutError:
        raise EngineError(f"The volumes of {instance} were not looked at within {GIVE_TIMEOUT_S:g} s.") from None
    finally:
        await context.ownership.tidy(plan.name)
        context.exits.forget(container)
