"""Edits the configuration file: the whole new text is made and validated first, then written in one step or not at all.

    edit = edit_config(path, allow_host("fetch", "api.github.com", 443))
    print(edit.diff)
    apply(edit)

Comments and everything that is not touched stay as they are, in YAML and in JSON.
"""

from __future__ import annotations

import copy
import difflib
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from egress.policy.decide import DEFAULT_PORTS, HOST_NAME
from registry.check.problems import unknown_key
from registry.config import Config
from registry.file import json_edit
from registry.file.document import Document, decode, parse, read_text
from registry.file.splice import block_value, splice
from registry.importers.adopt import OURS, is_foreign, places_of
from registry.importers.sections import section, written
from registry.load import load_text
from registry.model.build import BUILD
from registry.model.errors import ConfigError, Problem
from registry.model.network import covers, host_text
from registry.model.plain_secrets import Plain, hide, plain_secrets

EMPTY = "version: 1\n"


class EditError(ConfigError):
    """Raised when a change does not fit the file: no such server, a name that is taken."""


class ConcurrentChange(EditError):
    """Raised when another program changed the file since the edit was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A change of the file, validated and not yet written."""

    path: Path
    before: str
    """The file's text; empty where there is no file yet."""
    after: str
    config: Config
    """What the file will mean."""
    warnings: tuple[Problem, ...]
    """Warnings that the change brings with it."""
    secrets: tuple[Plain, ...] = field(default=(), repr=False)
    """Secrets that stand in either text as they are; `diff` does not show them."""

    @property
    def worth_knowing(self) -> tuple[str, ...]:
        """The warnings without file and line, for display beside the diff."""
        return tuple(
            str(replace(one, file="", line=0, column=0)).removeprefix("mcpServers.") for one in self.warnings
        )

    @property
    def changed(self) -> bool:
        return self.before != self.after

    @property
    def diff(self) -> str:
        """The change as a unified diff, secrets hidden; empty when there is none."""
        before, after = self.before.splitlines(keepends=True), self.after.splitlines(keepends=True)
        lines = difflib.unified_diff(before, after, f"a/{self.path.name}", f"b/{self.path.name}")
        return hide("".join(line if line.endswith("\n") else f"{line}\n" for line in lines), self.secrets)


@dataclass(frozen=True, slots=True)
class Tree:
    """The file's value, changed in place, whether the file is Stockade's or an AI client's."""

    root: dict[str, Any]
    file: str
    foreign: bool

    def servers(self) -> dict[str, Any]:
        """The mapping of servers; added when there is none."""
        here = self.root
        for part in section(self.root) or ("mcpServers",):
            if not isinstance(here.get(str(part)), dict):
                here[str(part)] = {}
            here = here[str(part)]
        return here

    def server(self, name: str) -> dict[str, Any]:
        """A server's entry. Raises EditError when there is none."""
        servers, key = self.place(name)
        if not isinstance(servers.get(key), dict):
            known = list(places_of(self.root) if self.foreign else servers)
            raise self.error(f"there is no server {name!r}", unknown_key(name, known)[1])
        entry: dict[str, Any] = servers[key]
        return entry

    def place(self, name: str) -> tuple[dict[str, Any], str]:
        """The mapping that has the server, or would have it, and its name there: a client's file may have several, and names
        that are not valid in ours."""
        path = places_of(self.root).get(name) if self.foreign else None
        if path is None:
            return self.servers(), name
        here: Any = self.root
        for part in path[:-1]:
            here = here[part]
        return here, str(path[-1])

    def clients(self) -> dict[str, Any]:
        if self.foreign and not OURS & self.root.keys():
            hint = "Make a stockade.yaml with these servers, and keep the clients there"
            raise self.error("is an AI client's own file, which has no place for `clients`", hint)
        if not isinstance(self.root.get("clients"), dict):
            self.root["clients"] = {}
        found: dict[str, Any] = self.root["clients"]
        return found

    def error(self, message: str, hint: str = "") -> EditError:
        return EditError([Problem(file=self.file, message=message, hint=hint)])


Change: TypeAlias = Callable[[Tree], None]


def edit_config(path: Path | str, change: Change) -> Edit:
    """The file as it would be after the change. Raises EditError or ConfigError; writes nothing."""
    path = Path(path)
    before = read_text(path) if path.exists() else ""
    document = parse(before or EMPTY, str(path))
    if document.value is None:
        document = parse(f"{before.rstrip()}\n{EMPTY}".lstrip("\n"), str(path))
    if not isinstance(document.value, dict):
        raise EditError([Problem(file=str(path), message="holds no mapping (key: value)")])
    new = copy.deepcopy(document.value)
    change(Tree(new, str(path), is_foreign(document)))
    after = before if new == document.value else rewritten(document, new)
    config = load_text(after or EMPTY, path)
    return Edit(
        path=path,
        before=before,
        after=after,
        config=config,
        warnings=new_warnings(document, config, path),
        secrets=(*secrets_in(document.value), *secrets_in(new)),
    )


def secrets_in(value: Mapping[str, Any]) -> Iterator[Plain]:
    """The secrets that stand in a file's servers as they are."""
    for one in written(value):
        if isinstance(one.raw, Mapping):
            yield from plain_secrets(one.raw)


def rewritten(document: Document, new: dict[str, Any]) -> str:
    """The text with the change in it; it is read again to make sure that it means exactly that."""
    attempts = (rewrite_json,) if document.is_json else (splice, round_trip)
    for attempt in attempts:
        try:
            text = attempt(document, new)
            if parse(text, document.file).value == new:
                return text if text.endswith("\n") else f"{text}\n"
        except (ConfigError, LookupError, ValueError):
            continue
    hint = "Make the change by hand"
    raise EditError(
        [Problem(file=document.file, message="is written in a way that cannot be edited safely", hint=hint)]
    )


def rewrite_json(document: Document, new: dict[str, Any]) -> str:
    """A JSON file's text with what differs from `new` changed in place."""
    return json_edit.rewrite(document.text, new)


def round_trip(document: Document, new: dict[str, Any]) -> str:
    """The whole file written again, for what cannot be done in place (aliases, keys in odd places)."""
    comments = [line for line in document.text.splitlines() if line.lstrip().startswith("#")]
    if comments or "&" in document.text:
        raise ValueError("comments or anchors would be lost")
    return block_value(new)


def new_warnings(document: Document, config: Config, path: Path) -> tuple[Problem, ...]:
    """The warnings that the file did not have before. Lines may have moved, so keys and messages are compared."""
    try:
        old = {(item.key_path, item.message) for item in load_text(document.text, path).warnings}
    except ConfigError:
        old = set()
    return tuple(item for item in config.warnings if (item.key_path, item.message) not in old)


def apply(edit: Edit) -> None:
    """Writes the file. Raises ConcurrentChange when its text is no longer the one that was edited."""
    if not edit.changed:
        return
    path = Path(os.path.realpath(edit.path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock(path.parent):
            current = decode(path.read_bytes(), str(path)) if path.exists() else ""
            if current != edit.before:
                hint = "Look at the file and make the change again"
                raise ConcurrentChange([Problem(file=str(path), message="was changed meanwhile", hint=hint)])
            write(path, edit.after)
    except OSError as error:
        hint = "Check who owns the file and its folder"
        raise EditError(
            [Problem(file=str(path), message=f"cannot be written: {error.strerror}", hint=hint)]
        ) from None


class lock:
    """Holds a folder for one writer of Stockade at a time."""

    def __init__(self, folder: Path) -> None:
        self.handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def __enter__(self) -> None:
        fcntl.flock(self.handle, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self.handle)


def write(path: Path, text: str) -> None:
    """Replaces the file in one step, keeping its mode and owner (a new file gets 0600)."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            if path.exists():
                keep_owner(file.fileno(), path)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def keep_owner(handle: int, path: Path) -> None:
    status = path.stat()
    os.fchmod(handle, status.st_mode & 0o7777)
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        try:
            os.fchown(handle, status.st_uid, status.st_gid)
        except PermissionError:
            return


def allow_host(backend: str, host: str, port: int | None = None) -> Change:
    """Lets a server connect to a host; `build:NAME` is the installation of its image. A given port is the only one opened:
    the entry omits it only if it is the server's one port anyway."""
    name = backend.removeprefix(BUILD)
    key = "network" if name == backend else "build"

    def change(tree: Tree) -> None:
        server = tree.server(name)
        block = server.get(key) or {}
        hosts = list(block.get("allowed_hosts") or [])
        ports = block.get("allowed_ports") or ([] if host == HOST_NAME else DEFAULT_PORTS)
        usual = port is None or [str(item) for item in ports] == [str(port)]
        bracketed = f"[{host}]" if ":" in host else host
        entry = host if usual else f"{bracketed}:{port}"
        if entry not in hosts and not any(has(item, host, port) for item in hosts):
            server[key] = {**block, "allowed_hosts": [*hosts, entry]}

    return change


def has(entry: Any, host: str, port: int | None) -> bool:
    """Whether an entry already names this host with this port."""
    if not isinstance(entry, dict) or host_text(entry) != host:
        return False
    named = [*(entry.get("ports") or []), *([entry["port"]] if "port" in entry else [])]
    return any(covers(item, port) for item in named) if port is not None and named else not named


def set_network(backend: str, block: Mapping[str, Any]) -> Change:
    """Replaces a server's whole `network` block."""

    def change(tree: Tree) -> None:
        tree.server(backend)["network"] = copy.deepcopy(dict(block))

    return change


def add_server(name: str, entry: Mapping[str, Any]) -> Change:
    """Adds a server. Raises EditError when the name is taken."""

    def change(tree: Tree) -> None:
        servers, key = tree.place(name)
        if key in servers:
            hint = f"Choose another name, or remove it first: stockade rm {name}"
            raise tree.error(f"there is already a server {name!r}", hint)
        servers[name] = copy.deepcopy(dict(entry))

    return change


def add_servers(entries: Mapping[str, Mapping[str, Any]]) -> Change:
    """Adds several servers as one change. Raises EditError when a name is taken."""

    def change(tree: Tree) -> None:
        for name, entry in entries.items():
            add_server(name, entry)(tree)

    return change


def replace_server(name: str, entry: Mapping[str, Any]) -> Change:
    """Replaces a server's whole entry."""

    def change(tree: Tree) -> None:
        tree.server(name)
        servers, key = tree.place(name)
        servers[key] = copy.deepcopy(dict(entry))

    return change


def remove_server(name: str) -> Change:
    """Removes a server, from the lists of the clients too."""

    def change(tree: Tree) -> None:
        tree.server(name)
        servers, key = tree.place(name)
        del servers[key]
        for client in (tree.root.get("clients") or {}).values():
            if isinstance(client, dict) and name in (client.get("servers") or []):
                client["servers"] = [item for item in client["servers"] if item != name]

    return change


def set_disabled(name: str, disabled: bool) -> Change:
    """Switches a server off (it stays in the file) or on."""

    def change(tree: Tree) -> None:
        server = tree.server(name)
        server.pop("disabled", None)
        if disabled:
            server["disabled"] = True

    return change


def add_client(name: str, token_sha256: str, settings: Mapping[str, Any] | None = None) -> Change:
    """Adds a client, or gives an existing one a new token and keeps its other settings."""

    def change(tree: Tree) -> None:
        clients = tree.clients()
        old = clients.get(name) or {}
        clients[name] = {**old, "token_sha256": token_sha256, **copy.deepcopy(dict(settings or {}))}

    return change


def remove_client(name: str) -> Change:
    """Removes a client."""

    def change(tree: Tree) -> None:
        clients = tree.clients()
        if name not in clients:
            raise tree.error(f"there is no client {name!r}", unknown_key(name, list(clients))[1])
        del clients[name]

    return change


__all__ = [
    "Change",
    "ConcurrentChange",
    "Edit",
    "EditError",
    "add_client",
    "add_server",
    "add_servers",
    "allow_host",
    "apply",
    "edit_config",
    "remove_client",
    "remove_server",
    "replace_server",
    "set_disabled",
    "set_network",
]
