"""Volumes that a server stores its files in: the engine creates them as root's, and no server runs as root.

A short-lived container of ours, with CHOWN and nothing else, gives the top folder of each to the server. Its content
is not touched. It runs each time the server's container was made, which sets the owner back to the image's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from gateway.runtime.engine.base import ContainerPlan, Mount
from gateway.runtime.engine.seccomp import backend_profile
from gateway.runtime.inventory.context import RuntimeContext, owned, start_watched
from gateway.runtime.inventory.record import Role
from gateway.runtime.plan.plans import MIB, Names
from gateway.runtime.sandbox.errors import EngineError
from registry.model.mount_risks import Risk
from registry.model.mounts import Mount as EntryMount

logger = logging.getLogger(__name__)

GIVE_TIMEOUT_S: Final = 30.0
SCRIPT: Final = """\
import os, sys
uid, gid = map(int, sys.argv[1:3])
for path in sys.argv[3:]:
    if os.lstat(path).st_uid == 0:
        os.lchown(path, uid, gid)
"""


def writable_volumes(names: Names, mounts: Sequence[EntryMount]) -> tuple[str, ...]:
    """The project's own volumes that a server may write in; other volumes keep the owner that they have."""
    own = (mount for mount in mounts if mount.volume and Risk.FOREIGN_VOLUME not in mount.accepted)
    return tuple(names.volume(mount.source) for mount in own if not mount.read_only)


def giving_plan(names: Names, instance: str, image: str, user: str, volumes: Sequence[str]) -> ContainerPlan:
    """The container that gives root's volumes to a user, written `UID:GID`."""
    mounts = tuple(
        Mount(source=volume, target=f"/volumes/{number}", read_only=False, volume=True)
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


async def give_volumes(context: RuntimeContext, instance: str, user: str, volumes: Sequence[str]) -> None:
    """Gives these volumes to `user`, except those that are not root's.

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
