"""The mounts of a server: their notations, and what is wrong with a source on this machine."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.model.errors import Invalid
from registry.model.fields import absolute
from registry.model.mount_risks import Risk, real, refuse_forbidden, unaccepted
from registry.model.references import fill_path

VOLUME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A folder or file of the machine (or a volume of the engine) inside a server's container."""

    source: str
    """An absolute path, or the volume's name."""
    target: str
    """An absolute path in the container."""
    read_only: bool = False
    volume: bool = False
    """True when `source` names a volume of the engine."""
    storage: bool = False
    """True for a path under `storage`: a volume of this server alone, whose name the runtime makes; `source` is empty."""
    accepted: frozenset[Risk] = frozenset()
    """The risks that the entry accepts by name."""
    led_to: str = field(default="", compare=False, repr=False)
    """The source without links, as it was when the configuration was read; empty for a volume."""


def parse_mount(value: Any, base: Path, env: Mapping[str, str] | None = None) -> Mount:
    """A mount from `SOURCE:TARGET[:ro|:rw]`, or a mapping of source, target and read_only. Raises Invalid.

    `${env:NAME}` in it is filled in now, from the entry's own `env`, then from the environment.
    """
    if isinstance(value, Mount):
        return value
    if isinstance(value, str):
        return make_mount(*split_mount(fill_path(value, env or {})), base=base)
    if not isinstance(value, dict):
        raise Invalid("must be text or a mapping", "Write SOURCE:TARGET:ro")
    return from_mapping(value, base, env or {})


def from_mapping(value: dict[str, Any], base: Path, env: Mapping[str, str]) -> Mount:
    if unknown := sorted(value.keys() - {"source", "target", "read_only", "accept"}):
        hint = "A mount has source, target, read_only and accept"
        raise Invalid(f"unknown key {unknown[0]!r}", hint, path=(unknown[0],), at_key=True)
    for key in ("source", "target"):
        if not isinstance(value.get(key), str):
            raise Invalid(f"needs {key!r}, as text", "Write SOURCE:TARGET:ro, or source and target", path=(key,))
    read_only = value.get("read_only", False)
    if not isinstance(read_only, bool):
        raise Invalid("must be true or false", path=("read_only",))
    source, target = fill_path(value["source"], env), fill_path(value["target"], env)
    return make_mount(source, target, read_only, base=base, accepted=to_risks(value.get("accept", ())))


def to_risks(value: Any) -> frozenset[Risk]:
    known = ", ".join(Risk)
    if not isinstance(value, list | tuple):
        raise Invalid("must be a list", f"Write [NAME]; there are: {known}", path=("accept",))
    for index, item in enumerate(value):
        if item not in list(Risk):
            raise Invalid(f"{item!r} is not one of {known}", path=("accept", index))
    return frozenset(map(Risk, value))


def split_mount(text: str) -> tuple[str, str, bool]:
    """Source, target and whether it is read-only; like Docker, a mount without `:ro` can be written to."""
    source, colon, rest = text.partition(":")
    target, _, options = rest.partition(":")
    words = set(options.split(",")) - {""}
    if not colon or not source or not target:
        raise Invalid(f"{text!r} is not a mount", "Write SOURCE:TARGET:ro, such as ./data:/data:ro")
    if unknown := sorted(words - {"ro", "rw", "z", "Z", "cached", "delegated", "consistent"}):
        raise Invalid(f"unknown mount option {unknown[0]!r}", "Write :ro (read only) or :rw at the end")
    return source, target, "ro" in words


RESERVED = ("/dev", "/proc", "/sys", "/run/stockade")
"""The kernel's folders of a container, and Stockade's own."""


def inside(target: str) -> str:
    """The path in the container in its one spelling; `normpath` leaves two slashes at the beginning."""
    path = os.path.normpath(target)
    return path[1:] if path.startswith("//") else path


def covers(folder: str, path: str) -> bool:
    """Whether the path is that folder or in it; both in their one spelling."""
    return bool(folder) and (path == folder or path.startswith(f"{folder}/"))


def refuse_target(target: str) -> None:
    """Raises Invalid for a path in the container where nothing can be mounted."""
    path = inside(target)
    if not target.startswith("/") or path == "/":
        raise Invalid(f"{target!r} is not a path in the container", "Give an absolute path below /, such as /data")
    if tree := next((tree for tree in RESERVED if covers(tree, path)), ""):
        owner = "Stockade" if tree == "/run/stockade" else "the kernel"
        raise Invalid(
            f"{target} is in {tree}, which belongs to {owner} in a container", "Take another, such as /data"
        )


def make_mount(
    source: str, target: str, read_only: bool, *, base: Path, accepted: frozenset[Risk] = frozenset()
) -> Mount:
    refuse_target(target)
    volume = "/" not in source and not source.startswith((".", "~"))
    if not volume:
        source = str(absolute(source, base))
        refuse_forbidden(source, accepted)
    elif not VOLUME.fullmatch(source):
        raise Invalid(f"{source!r} is neither a path nor a volume's name", f"For a folder, write ./{source}")
    return Mount(
        source=source,
        target=inside(target),
        read_only=read_only,
        volume=volume,
        accepted=accepted,
        led_to="" if volume else real(source),
    )


def is_root(user: str | None) -> bool:
    """Whether a server's `user` is user 0, however it is written."""
    return user is not None and user.partition(":")[0].strip("0") == ""


def refuse_root_writes(mount: Mount, user: str | None) -> Invalid | None:
    """What is wrong with a folder that a server of this user may write to, if anything. Only containers read a volume."""
    if mount.volume or mount.read_only or not is_root(user) or Risk.ROOT_WRITES in mount.accepted:
        return None
    message = f"the server runs as root and may write to {mount.source}: it could leave files owned by root there"
    return unaccepted(message, Risk.ROOT_WRITES, "Add :ro, or run it as another user, such as user: 1000")


def missing_source(mount: Mount) -> Invalid | None:
    """What is wrong with a mount's source on this machine now, if anything."""
    if mount.volume:
        return None
    try:
        mode = os.stat(mount.source).st_mode
    except FileNotFoundError:
        return Invalid(f"{mount.source} does not exist", f"Make it (mkdir -p {mount.source}) or correct the path")
    except OSError as error:
        return Invalid(f"{mount.source} cannot be accessed: {error.strerror}", "Correct the path, or who may read it")
    if stat.S_ISSOCK(mode) and Risk.SOCKET not in mount.accepted:
        return unaccepted(
            f"{mount.source} is a socket, a way around the wall", Risk.SOCKET, "Mount files and folders only"
        )
    return None


def refuse_moved(mount: Mount) -> None:
    """Raises Invalid when the source leads elsewhere than when the configuration was read.

    A server that may write to a folder can put a link in the place of what is mounted from inside that folder; the
    engine would follow it at the container's next start.
    """
    if mount.volume or not mount.led_to:
        return
    if (now := real(mount.source)) != mount.led_to:
        hint = "If that is meant, reload the configuration; if not, a server may have put a link there"
        raise Invalid(f"{mount.source} led to {mount.led_to} and leads to {now} now", hint)
    refuse_forbidden(mount.source, mount.accepted)


def holds(mount: Mount, path: Path) -> bool:
    """Whether the mount shows `path` to the server."""
    if mount.volume:
        return False
    return Path(real(str(path))).is_relative_to(real(mount.source))
