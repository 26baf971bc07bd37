"""What a mount could open, by where its source is: never, only when it is asked for by name, or nothing. Pure, except
that it follows links and reads the environment.

Paths stand for whole trees: what applies to `/etc` applies to everything below it, and a folder that contains a path
that no server may see is not mounted either.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable
from enum import StrEnum
from pathlib import Path

from registry.model.errors import Invalid
from registry.model.secret_places import secret_place


class Risk(StrEnum):
    """The risks that an entry of `mounts` can accept, under `accept`."""

    SYSTEM_FOLDER = "system-folder"
    """The source is in a folder of the system, with its programs, settings or logs."""
    ROOT_WRITES = "root-writes"
    """The server runs as user 0 and may write there: it can leave files owned by root, with any mode, on this machine."""
    SOCKET = "socket"
    """The source is a UNIX socket, or a folder for such: the program that listens there is not isolated."""
    SECRETS = "secrets"
    """The source is, or holds, where a program keeps keys, tokens or sessions (`secret_places`)."""
    FOREIGN_VOLUME = "foreign-volume"
    """The engine's volume of exactly this name, even if another project made it, instead of one of this project's own."""


ENGINE_SOCKETS = ("docker.sock", "containerd.sock", "podman.sock", "crio.sock", "buildkitd.sock")
NEVER_WHOLE = frozenset({"/", "/var", "/var/lib", "/etc", "/home", "/usr"})
"""With one of these a server would see far too much: other users' files, keys, or what is in NEVER."""
NEVER = (
    "/boot",
    "/dev",
    "/proc",
    "/run",
    "/sys",
    "/var/run",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/docker",
    "/var/lib/etcd",
    "/var/lib/kubelet",
    "/var/lib/rancher",
    "/var/lib/stockade",
    "~/.docker",
    "~/.local/share/containers",
    "~/.local/share/docker",
    "~/.local/state/stockade",
)
"""In one of these, at any depth, are ways out: the engine, the kernel's files, other programs' sockets."""
REMOVABLE = ("/run/media",)
"""Where desktops put removable disks; nothing else is there."""
SYSTEM = (
    "/Applications",
    "/Library",
    "/System",
    "/bin",
    "/efi",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix",
    "/opt",
    "/root",
    "/sbin",
    "/snap",
    "/usr",
    "/var/backups",
    "/var/cache",
    "/var/db",
    "/var/lib",
    "/var/log",
    "/var/mail",
    "/var/root",
    "/var/spool",
)
"""Programs that others run, settings that root reads, logs of all users."""
SHARED = frozenset({"/tmp", "/var/tmp"})  # noqa: S108 - compared, not written to
"""Shared by all users; a folder in one of them belongs to one user."""
SOCKETS = re.compile(r"(?:/var)?/tmp/(?:\.[A-Z0-9]+-unix|ssh-[^/]+|tmux-[^/]+|dbus-[^/]+)(?:/|$)")
"""Where desktops, agents and terminals keep their sockets."""


def refuse_forbidden(source: str, accepted: Collection[Risk] = ()) -> None:
    """Raises Invalid for a path that would break the isolation, or has a risk that was not accepted, also through links."""
    for path in dict.fromkeys((source, real(source))):
        plain = path.removeprefix("/private") if path.startswith("/private/") else path
        refuse_never(source, plain)
        if risk := risk_of(plain, accepted):
            raise risk


def refuse_never(source: str, path: str) -> None:
    """Raises Invalid for a path that no server may see, accepted or not."""
    if path.rpartition("/")[2] in ENGINE_SOCKETS or path in engine_sockets():
        hint = "A program that reaches it controls this machine; a server that needs it cannot be isolated"
        raise Invalid(f"{source} is the container engine's socket, which no server gets", hint)
    never = never_trees()
    if path in NEVER_WHOLE or (below(path, never) and not below(path, REMOVABLE)):
        hint = "A server could use it to break out; mount only the folder the server works on"
        raise Invalid(f"{source} is not mounted into a server", hint)
    if inner := next((tree for tree in (*never, *engine_sockets()) if below(tree, (path,))), ""):
        hint = "A server could use it to break out; mount a folder further down"
        raise Invalid(f"{source} is not mounted into a server: {inner} is in it", hint)


def risk_of(path: str, accepted: Collection[Risk]) -> Invalid | None:
    """The risk of a path that was not accepted, if any."""
    if SOCKETS.match(path) and Risk.SOCKET not in accepted:
        return unaccepted(f"{path} is where programs of this machine keep their sockets", Risk.SOCKET)
    if Risk.SECRETS not in accepted and (place := secret_place(path)):
        return unaccepted(f"{path} holds keys or sessions of yours ({place})", Risk.SECRETS)
    if Risk.SYSTEM_FOLDER in accepted:
        return None
    if path in SHARED:
        return unaccepted(f"{path} holds files and sockets of every program of this machine", Risk.SYSTEM_FOLDER)
    home = os.path.expanduser("~")
    tree = next((tree for tree in SYSTEM if below(path, (tree,)) and not below(home, (tree,))), "")
    return unaccepted(f"{path} is in {tree}, which belongs to the system", Risk.SYSTEM_FOLDER) if tree else None


def unaccepted(message: str, risk: Risk, instead: str = "Mount only the folder the server works on") -> Invalid:
    """The error for a risk that was not accepted, with the words that accept it."""
    return Invalid(message, f"{instead}; if it is meant: {{source: …, target: …, accept: [{risk}]}} under mounts")


def real(path: str) -> str:
    """The path without links, as far as this process may look."""
    try:
        return os.path.realpath(path)
    except OSError:
        return path


def never_trees() -> tuple[str, ...]:
    """NEVER on this machine, and where Stockade itself and the session keep their sockets; without links, too."""
    env = os.environ
    state = env.get("XDG_STATE_HOME")
    own = (env.get("STOCKADE_STATE_DIR"), env.get("XDG_RUNTIME_DIR"), f"{state}/stockade" if state else None)
    trees = [os.path.normpath(os.path.expanduser(tree)) for tree in (*NEVER, *own, data_root()) if tree]
    return tuple(dict.fromkeys((*trees, *map(real, trees))))


def data_root(settings: Path = Path("/etc/docker/daemon.json")) -> str:
    """Where this machine's engine keeps its files, if its settings put them elsewhere."""
    try:
        found = json.loads(settings.read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    root = found.get("data-root") if isinstance(found, dict) else None
    return root if isinstance(root, str) and root.startswith("/") else ""


def engine_sockets() -> tuple[str, ...]:
    """The socket of the engine in use, where the environment names one."""
    scheme, _, path = os.environ.get("DOCKER_HOST", "").partition("://")
    return (path, real(path)) if scheme == "unix" and path.startswith("/") else ()


def below(path: str, trees: Iterable[str]) -> bool:
    return any(path == tree or path.startswith(f"{tree.rstrip('/')}/") for tree in trees)
