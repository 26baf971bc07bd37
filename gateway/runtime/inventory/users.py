"""Which user each container runs as: one of its own.

The kernel limits much per user and not per container: descriptors in flight through sockets, pages of pipes, inotify and
epoll watches, pending signals, bytes of message queues. One program can use up all of any of these, and then every process
with the same uid has none, in whatever container, of whatever project. So no two containers share a uid: not backends, not
their doors, not the egress; and none has the uid of an account of this machine.

A uid is derived from a hash of the project and of its `holder`, and is recorded, so that a server's files stay its own. A
holder whose uid is taken gets the next free one.
"""

from __future__ import annotations

import asyncio
import grp
import hashlib
import logging
import pwd
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Final

from gateway.runtime.engine.base import ContainerEngine, EngineInfo
from gateway.runtime.inventory.record import Record
from gateway.runtime.sandbox.errors import EngineError
from registry.check.warnings import chosen_user
from registry.config import Config
from registry.model.mounts import Mount
from registry.model.server import OWN_USERS

logger = logging.getLogger(__name__)

MAPPED: Final = range(20_000, 60_000)
"""Where the engine maps users into a range of its own (userns-remap, rootless) it has 65536 of them."""
EGRESS: Final = "egress"
PROBE: Final = "probe"


def backend_holder(backend: str) -> str:
    """The holder of a backend's uid, which owns the files in its volumes."""
    return f"backend/{backend}"


def instance_holder(instance: str, mounts: Iterable[Mount]) -> str:
    """The holder of an instance's uid.

    Each session of a per-client backend is a user of its own, unless the backend stores files: the next session must be
    able to write what an earlier one wrote.
    """
    backend, _, session = instance.partition("/")
    keeps_files = any(not mount.read_only for mount in mounts)
    return f"session/{instance}" if session and not keeps_files else backend_holder(backend)


def chosen_users(config: Config) -> set[int]:
    """The uids that entries name themselves."""
    found = (chosen_user(server) for server in config.servers.values())
    return {uid for uid in found if uid is not None}


def door_holder(instance: str) -> str:
    """A backend's door."""
    return f"door/{instance}"


def connector_holder(network: str) -> str:
    """The connector on a network that backends join."""
    return f"connector/{network}"


class Users:
    """The uids of one project on one engine."""

    def __init__(
        self, engine: ContainerEngine, record: Record, project: str, chosen: Callable[[], Iterable[int]]
    ) -> None:
        """`chosen` returns the uids that the configuration names itself."""
        self.engine = engine
        self.record = record
        self.project = project
        self.chosen = chosen
        self.span = OWN_USERS
        self.running: frozenset[int] = frozenset()
        """The uids of all processes of this machine at the start."""
        self.choosing = asyncio.Lock()

    async def use_engine(self, info: EngineInfo) -> None:
        """Which uids this engine can give, and which are in use here already."""
        self.span = MAPPED if info.maps_users else OWN_USERS
        self.running = await asyncio.to_thread(running_users)

    def given(self, holder: str) -> int:
        """The uid that `of` gave it last."""
        return self.record.users[holder]

    def gave(self, uid: int | None) -> bool:
        """Whether that is one of ours, rather than an image's own or one that the file names."""
        return uid in self.record.users.values()

    def sharing(self, running: Mapping[str, set[int]], chosen: Set[str]) -> dict[str, list[str]]:
        """For each running backend that shares a uid: with which backends or containers of ours, in sentences.

        Two backends that are both in `chosen` are left out: the configuration's own warnings name them.
        """
        found: dict[str, list[str]] = {}
        ours = {
            uid: holder for holder, uid in self.record.users.items() if holder.startswith(("door/", "connector/"))
        }
        ours[self.record.users.get(EGRESS, -1)] = "Stockade's egress"
        for name, users in running.items():
            for uid in sorted(users):
                others = [other for other, theirs in running.items() if other != name and uid in theirs]
                others = [other for other in others if not {name, other} <= chosen]
                others += [ours[uid]] if uid in ours else []
                if others:
                    found.setdefault(name, []).append(shared_sentence(uid, others, self.suggestion(name)))
        return found

    def suggestion(self, backend: str) -> int:
        """A uid that nothing of this project has."""
        taken = set(self.record.users.values()) | set(self.chosen())
        return next(uid for uid in candidates(self.project, f"suggested/{backend}", self.span) if uid not in taken)

    async def of(self, holder: str) -> int:
        """The uid of a holder; the recorded one unless another process has it by now. Raises EngineError."""
        async with self.choosing:
            taken = {*self.chosen(), *await self.engine.users(self.project)}
            before = self.record.users.get(holder, -1)
            uid = await asyncio.to_thread(self.choose, holder, before, taken)
            if uid != before:
                self.record.give(holder, uid)
                if before in self.span and holder.startswith("backend/"):
                    logger.warning("%s ran as user %d, which is taken by now; it runs as %d", holder, before, uid)
            return uid

    def choose(self, holder: str, before: int, taken: set[int]) -> int:
        """`before` if it is still free, else the first free one. Blocks: it looks up accounts of this machine."""
        lent = lent_ranges()
        if before in self.span and before not in taken and not is_somebodys(before, lent):
            return before
        taken = taken | set(self.record.users.values()) | neighbours(self.record) | self.running
        for uid in candidates(self.project, holder, self.span):
            if uid not in taken and not is_somebodys(uid, lent):
                return uid
        raise EngineError(
            f"No user is free for {holder}: all of {self.span[0]} to {self.span[-1]} are taken by accounts of this "
            "machine, by ranges in /etc/subuid, or by containers. Make room there."
        )

    def release(self, instance: str) -> None:
        """An instance that belonged to one session is gone for good."""
        if "/" in instance:
            self.record.take_back(f"session/{instance}", door_holder(instance))

    def purge(self) -> None:
        """After a start: takes back the uids of sessions and doors that no longer exist."""
        there = {owned.instance for owned in self.record.owned.values()}
        gone = [name for name in self.record.users if name.startswith(("session/", "door/"))]
        self.record.take_back(*(name for name in gone if name.partition("/")[2] not in there))


def shared_sentence(uid: int, others: Sequence[str], free: int) -> str:
    """What it means that two backends run as one user, and what to do."""
    return (
        f"runs as user {uid}, as {', '.join(others)} does: what the kernel counts per user (descriptors under way, "
        f"pipes, inotify and more) each can take from the other. If its image's files allow another user, write "
        f'user: "{free}:{free}" for it'
    )


def neighbours(record: Record) -> set[int]:
    """The uids in the records of other projects beside ours: their files have them even while nothing of theirs runs."""
    files = record.path.parent.parent.glob(f"*/{record.path.name}")
    return {uid for file in files if file != record.path for uid in Record.load(file).users.values()}


def candidates(project: str, holder: str, span: range) -> Iterable[int]:
    """Every uid of the span, beginning with the one that the holder's name hashes to."""
    first = int.from_bytes(hashlib.sha256(f"{project}\0{holder}".encode()).digest()[:8]) % len(span)
    return (span[(first + step) % len(span)] for step in range(len(span)))


def is_somebodys(uid: int, lent: Iterable[range]) -> bool:
    """Whether a person, a service or a group of this machine has this number, or may map it into a container."""
    if any(uid in numbers for numbers in lent):
        return True
    for look_up in (pwd.getpwuid, grp.getgrgid):
        try:
            look_up(uid)
            return True
        except KeyError:
            continue
    return False


def lent_ranges(files: Sequence[Path] = (Path("/etc/subuid"), Path("/etc/subgid"))) -> list[range]:
    """What this machine lends to people for containers of their own (subuid(5)); unreadable lines are none."""
    found = []
    for file in files:
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            _, _, numbers = line.partition(":")
            start, _, count = numbers.partition(":")
            if start.isdecimal() and count.isdecimal():
                found.append(range(int(start), int(start) + int(count)))
    return found


def uid_of(pid: int, container: str, proc: Path = Path("/proc")) -> int | None:
    """The uid of a container's first program, as it is in there; None where this process does not see it."""
    process = proc / str(pid)
    try:
        if container not in (process / "cgroup").read_text():
            return None
        outside = real_uid((process / "status").read_text(errors="replace"))
        ranges = [tuple(map(int, line.split())) for line in (process / "uid_map").read_text().splitlines()]
    except (OSError, ValueError, IndexError):
        return None
    found = (inner + outside - outer for inner, outer, count in ranges if outer <= outside < outer + count)
    return next(found, None)


def real_uid(status: str) -> int:
    """The real uid in the text of /proc/PID/status. Raises ValueError or IndexError."""
    return int(status.partition("\nUid:")[2].split(maxsplit=1)[0])


def running_users(proc: Path = Path("/proc")) -> frozenset[int]:
    """The real uids of everything that runs on this machine and may be seen."""
    found = set()
    for status in proc.glob("[0-9]*/status"):
        try:
            found.add(real_uid(status.read_text(errors="replace")))
        except (OSError, ValueError, IndexError):  # it has ended
            continue
    return frozenset(found)
