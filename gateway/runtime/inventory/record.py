"""What is ours on the engine, written down before it exists.

Labels are hints: an image can carry them. So each container and network of ours is recorded first as an
intent (its name and a random mark that is also its label), then with the ID that the engine gave it. A crash
between the two leaves an intent, and a container of that name *with that mark* is ours: the mark is known to no other
process.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from gateway.disk import in_words
from gateway.runtime.sandbox.errors import EngineError

logger = logging.getLogger(__name__)


class Role(StrEnum):
    """What a recorded thing is for."""

    EGRESS = "egress"
    EGRESS_NETWORK = "egress-network"
    DOOR = "door"
    BACKEND = "backend"
    BACKEND_NETWORK = "backend-network"
    PROBE = "probe"
    PROBE_NETWORK = "probe-network"
    CONNECTOR = "connector"
    OWNER = "owner"

    @property
    def is_network(self) -> bool:
        """Networks are removed after containers."""
        return self.value.endswith("network")


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """One container or network of ours."""

    name: str
    role: Role
    mark: str
    id: str = ""
    """Empty while it is only an intent."""
    instance: str = ""
    """`NAME` or `NAME/SESSION`; empty for the egress."""
    fingerprint: str = ""
    """Of the plan it was made from."""
    nonce: str = ""
    """A door's."""
    generation: int = 0


@dataclass(slots=True)
class Record:
    """The record of one project, in one file that is replaced as a whole at each change."""

    path: Path
    engine: str = ""
    owned: dict[str, Owned] = field(default_factory=dict)
    """By name; a container and a network never share one."""
    users: dict[str, int] = field(default_factory=dict)
    """Holder -> uid (`users.Users`); a backend's outlives its containers, as its volumes do."""

    @classmethod
    def load(cls, path: Path) -> Record:
        """The record in that file; an absent, damaged or foreign file is an empty record."""
        try:
            content = json.loads(path.read_text())
            owned = [Owned(**{**item, "role": Role(item["role"])}) for item in content["owned"]]
            users = {str(holder): int(uid) for holder, uid in content.get("users", {}).items()}
            return cls(path=path, engine=str(content["engine"]), owned={o.name: o for o in owned}, users=users)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(path=path)

    def use_engine(self, engine: str) -> bool:
        """Sets the engine that the record describes. True when it described another one: then it is emptied."""
        changed = bool(self.engine) and self.engine != engine
        if changed:
            self.owned.clear()
        self.engine = engine
        self.save()
        return changed

    def intend(self, owned: Owned) -> Owned:
        """Writes down a thing that is about to be made, with a fresh mark. Raises EngineError when it cannot be."""
        marked = replace(owned, mark=secrets.token_hex(16), id="")
        self.owned[owned.name] = marked
        try:
            self.save()
        except EngineError:
            del self.owned[owned.name]
            raise
        return marked

    def made(self, name: str, identity: str) -> None:
        """Writes down the ID that the engine gave."""
        self.owned[name] = replace(self.owned[name], id=identity)
        self.note()

    def restore(self, owned: Owned) -> None:
        """Writes a thing down again as it was before `intend`: it is still there."""
        self.owned[owned.name] = owned
        self.note()

    def forget(self, name: str) -> None:
        """Drops a thing that no longer exists."""
        if self.owned.pop(name, None) is not None:
            self.note()

    def give(self, holder: str, uid: int) -> None:
        """Writes down a holder's uid. Raises EngineError when it cannot be: then it is not given."""
        before = dict(self.users)
        self.users[holder] = uid
        try:
            self.save()
        except EngineError:
            self.users = before
            raise

    def take_back(self, *holders: str) -> None:
        """Drops uids that no holder needs any more."""
        gone = [holder for holder in holders if self.users.pop(holder, None) is not None]
        if gone:
            self.note()

    def of(self, role: Role, instance: str = "") -> Owned | None:
        """The recorded thing of that role, if any."""
        return next((o for o in self.owned.values() if o.role is role and o.instance == instance), None)

    def all(self, *roles: Role) -> Iterator[Owned]:
        """Recorded things, of those roles when any is given."""
        return iter([o for o in self.owned.values() if not roles or o.role in roles])

    def note(self) -> None:
        """`save` where the file may lag behind: an intent is known by its mark, and what is gone is not found."""
        try:
            self.save()
        except EngineError as error:
            logger.warning("%s", error)

    def save(self) -> None:
        """Replaces the file. Raises EngineError when it cannot be written: nothing is made that is not in it."""
        try:
            self.write()
        except OSError as error:
            raise EngineError(f"The record of what runs cannot be written: {in_words(error, self.path)}") from error

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        content = {
            "engine": self.engine,
            "owned": [asdict(item) for item in self.owned.values()],
            "users": self.users,
        }
        draft = self.path.with_suffix(".tmp")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(content, file, indent=1)
        draft.replace(self.path)
