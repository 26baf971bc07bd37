"""Checks that need the whole configuration: contradictions between its parts, and missing files around it."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from egress.door.ports import OWN_PORTS
from egress.policy.nearest import nearest
from registry.check.warnings import warn
from registry.config import Config
from registry.file.document import Document, walk
from registry.model.errors import ConfigError, Finding, Invalid, KeyPath, Problem
from registry.model.fields import split_listen
from registry.model.mount_risks import refuse_forbidden
from registry.model.mounts import Mount, holds, missing_source, refuse_root_writes
from registry.model.network import carries_directly
from registry.model.references import check_references
from registry.model.server import Server
from registry.model.sources import HOME, ImageSource, ProjectSource, RemoteSource, Source
from registry.model.spec import plan
from registry.model.storage import kept
from registry.secrets import default_folder, with_references

__all__ = ["check_config", "check_document", "warn"]

Found = Iterator[Finding]
MAX_TOOL_NAME = 64
"""Clients refuse longer names."""
MANIFESTS = ("package.json", "pyproject.toml", "requirements.txt", "setup.py", "uv.lock", "poetry.lock", "pdm.lock")
"""Files by which a folder may be a project's root."""


def check_document(document: Document) -> None:
    """Raises ConfigError for a file that holds no configuration at all."""
    if document.value is None:
        hint = "Add a server with `stockade run NAME` (see `stockade search`)"
        raise ConfigError([Problem(file=document.file, line=1, message="is empty", hint=hint)])
    if not isinstance(document.value, dict):
        hint = "It starts with `version: 1`, then `mcpServers:`"
        raise ConfigError([Problem(file=document.file, line=1, message="holds no mapping (key: value)", hint=hint)])


def check_config(config: Config, document: Document, path: Path) -> list[Problem]:
    """Every conflict between the parts of a configuration, each of which is valid by itself."""
    findings = [
        *(finding for name, server in config.servers.items() for finding in check_server(name, server, config, path)),
        *check_prefixes(config),
        *check_clients(config, document.value),
        *check_addresses(config),
        *check_overrides(config),
        *check_extra_ca(config),
    ]
    return [document.problem(finding.path, finding.message, finding.hint) for finding in findings]


def check_server(name: str, server: Server, config: Config, path: Path) -> Found:
    """Findings of one server, with whole paths."""
    at: KeyPath = ("mcpServers", name)
    source: Source | None = None
    try:
        source = plan(server)
    except Invalid as error:
        yield from (Finding((*at, *item.path), item.message, item.hint) for item in error.findings)
    for finding in (
        *check_secrets(server),
        *check_mounts(server, source, path),
        *check_folder(server, source),
        *check_secret_files(server, source),
        *check_own_port(server),
        *check_tool_names(name, server, config),
    ):
        yield Finding((*at, *finding.path), finding.message, finding.hint)


def check_secrets(server: Server) -> Found:
    for where, text in walk(with_references(server)):
        if finding := check_references(text):
            yield Finding(where, finding.message, finding.hint)


def check_mounts(server: Server, source: Source | None, path: Path) -> Found:
    """Sources that are not there, targets used twice, mounts by which a server could write its own policy, or as root."""
    user = server.user if source is None or isinstance(source, RemoteSource) else source.user
    seen: set[str] = set()
    for where, mount in placed_mounts(server, source):
        if error := missing_source(mount):
            yield Finding(where, error.findings[0].message, error.findings[0].hint)
        if error := refuse_root_writes(mount, user):
            yield Finding(where, error.findings[0].message, error.findings[0].hint)
        if mount.target in seen:
            hint = "Keep it there or under `mounts`" if mount.storage else "Keep one of the mounts"
            yield Finding(where, f"{mount.target} is mounted twice", hint)
        seen.add(mount.target)
        if holds(mount, default_folder()):
            yield Finding(where, f"{mount.source} contains Stockade's secrets", "Mount a folder further down")
        elif holds(mount, path) and not mount.read_only:
            hint = f"Add :ro, or mount a folder that {path.name} is not in"
            yield Finding(where, f"with {mount.source} the server could rewrite {path.name}, its own policy", hint)


def check_folder(server: Server, source: Source | None) -> Found:
    """The folder of a program of this machine: one that is not there, and those that no server is shown."""
    if not isinstance(source, ProjectSource) or (source.standalone and source.folder == HOME):
        return
    where: KeyPath = ("cwd",) if source.folder == server.cwd else ("args",) if server.args else ("command",)
    try:
        refuse_forbidden(source.folder)
    except Invalid as error:
        finding = error.findings[0]
        yield Finding(where, finding.message, "Keep the program in a folder of its own, and name that")
        return
    if not os.path.isdir(source.folder):
        message = f"the folder {source.folder}, in which it starts, does not exist"
        built = source.how == "file" and source.language in ("node", "bun")
        yield Finding(where, message, "Correct the path" + (", or build it first (npm run build)" if built else ""))


def shown_folders(source: ProjectSource) -> tuple[str, ...]:
    """The folders that a program is given by its entry alone: where it starts, and that of the file that is run.

    Where it is looked for in a project (not `standalone`), those above with a manifest may come with them.
    """
    if source.standalone and source.folder == HOME:  # what is installed is all there is
        return ()
    file = os.path.normpath(os.path.join(source.folder, source.name)) if source.how == "file" else ""
    folders = dict.fromkeys((source.folder, os.path.dirname(file) if file else source.folder))
    shown = [folder for folder in folders if folder != HOME]
    return tuple(
        at for at in shown if not any(at.startswith(f"{other.rstrip('/')}/") for other in shown if other != at)
    )


def placed_mounts(server: Server, source: Source | None) -> list[tuple[KeyPath, Mount]]:
    """Every mount with the key that it stands under: `mounts`, the options of `docker run`, `storage`."""
    mounts = source.mounts if isinstance(source, ImageSource) else ()
    options = mounts[: max(0, len(mounts) - len(server.mounts) - len(server.storage))]
    return [
        *((("mounts", index), mount) for index, mount in enumerate(server.mounts)),
        *((("args",), mount) for mount in options),
        *((("storage", index), kept(path)) for index, path in enumerate(server.storage)),
    ]


def check_secret_files(server: Server, source: Source | None) -> Found:
    """A folder of secret files that is mounted already, or lies in a mount, such as that of a program's own folder: it would
    be made in a folder of this machine."""
    targets = [mount.target.rstrip("/") for _, mount in placed_mounts(server, source)]
    for path in server.secret_files:
        where: KeyPath = ("secret_files", path)
        if inside := next((target for target in targets if path.startswith(f"{target}/")), None):
            yield Finding(where, f"lies in the mount {inside}", "Write /run/secrets/NAME")
        elif isinstance(source, ProjectSource) and (inside := project_with(source, path)):
            yield Finding(where, f"lies in {inside}, a folder that the program is shown", "Write /run/secrets/NAME")
        if posixpath.dirname(path) == HOME:
            yield Finding(where, f"would hide what else is in {HOME}", "Write /run/secrets/NAME")


def project_with(source: ProjectSource, path: str) -> str:
    """The folder with `path` in it that is mounted for a program, or may be; empty for none.

    Besides those that are shown in any case it may be one above them with a manifest, as the project's root.
    """
    if source.copied:
        return ""
    for folder in shown_folders(source):
        for at in (folder, *map(str, Path(folder).parents)):
            declares = at == folder or any(os.path.isfile(f"{at}/{name}") for name in MANIFESTS)
            if declares and path.startswith(f"{at.rstrip('/')}/"):
                return at
            if source.standalone or os.path.exists(f"{at}/.git"):
                break
    return ""


def check_own_port(server: Server) -> Found:
    """A server chooses the port it listens on, except those that its door listens on."""
    if server.port is None or not server.isolated:
        return
    if server.port in OWN_PORTS:
        hint = "Let the server listen on another port, such as 8000"
        message = f"{server.port} is one of the ports that Stockade itself uses beside a server (53, 3128)"
        yield Finding(("port",), message, hint)
    elif carries_directly(server.network.policy, server.port):
        hint = "Let the server listen on another port, or take `direct: allow` or the `protocol: tcp` rule out of `network`"
        message = f"{server.port} is also a port that `network` lets it reach without the proxy; it cannot be both"
        yield Finding(("port",), message, hint)


def effective_prefix(name: str, server: Server) -> str:
    return name if server.prefix is None else server.prefix


def check_prefixes(config: Config) -> Found:
    """Two enabled servers with the same tool prefix. (No prefix at all is only a warning.)"""
    owners: dict[str, str] = {}
    for name, server in config.servers.items():
        prefix = effective_prefix(name, server)
        if server.disabled or not prefix:
            continue
        if prefix in owners:
            message = f"the prefix {prefix!r} is already that of the server {owners[prefix]!r}"
            yield Finding(("mcpServers", name, "prefix"), message, "Give each server a prefix of its own")
        owners.setdefault(prefix, name)


def check_tool_names(name: str, server: Server, config: Config) -> Found:
    prefix = effective_prefix(name, server)
    room = MAX_TOOL_NAME - (len(prefix) + len(config.gateway.separator) if prefix else 0)
    for old, new in server.tools.rename.items():
        if len(new) > room:
            message = f"{new!r} is too long: with its prefix a tool's name has at most {MAX_TOOL_NAME} characters"
            yield Finding(("tools", "rename", old), message, f"Use at most {room} characters")


def check_clients(config: Config, raw: dict[str, Any]) -> Found:
    known = raw.get("mcpServers") or {}
    tokens: dict[str, str] = {}
    for name, client in config.clients.items():
        servers = client.servers if client.servers != "*" else ()
        for index, server in enumerate(servers):
            if server not in known:
                yield Finding(("clients", name, "servers", index), *unknown_server(server, list(known)))
        if client.token_sha256 and client.token_sha256 in tokens:
            message = f"is the token of the client {tokens[client.token_sha256]!r} too"
            yield Finding(
                ("clients", name, "token_sha256"), message, f"Run `stockade client add {name}` for a new one"
            )
        tokens.setdefault(client.token_sha256 or "", name)


def unknown_server(name: str, known: list[str]) -> tuple[str, str]:
    near = nearest(name, known)
    hint = f"Did you mean {near!r}?" if near else f"There are: {', '.join(known) or 'none'}"
    return f"there is no server {name!r}", hint


def check_addresses(config: Config) -> Found:
    listen, admin = split_listen(config.gateway.listen), split_listen(config.gateway.admin)
    everywhere = {"0.0.0.0", "::"}  # noqa: S104 - compared, not listened on
    same_host = listen[0] == admin[0] or everywhere & {listen[0], admin[0]}
    if listen[1] == admin[1] != 0 and same_host:
        message = f"{config.gateway.admin} is also where the MCP endpoint listens"
        yield Finding(("gateway", "admin"), message, "Give it another port, such as 8421")


def check_overrides(config: Config) -> Found:
    seen: dict[str, str] = {}
    for index, text in enumerate(config.egress.resolve):
        host, port, address = text.split(":", 2)
        key = f"{host.lower()}:{port}"
        if seen.setdefault(key, address) != address:
            yield Finding(("egress", "resolve", index), f"{key} already leads to {seen[key]}", "Keep one address")


def check_extra_ca(config: Config) -> Found:
    path = config.extra_ca
    if path is None:
        return
    try:
        text = path.read_text("utf-8", "replace")
    except OSError as error:
        yield Finding(("extra_ca",), f"{path} cannot be read: {error.strerror}", "Correct the path")
        return
    if "PRIVATE KEY-----" in text:
        hint = "Servers can read this file: keep only the CERTIFICATE blocks in it"
        yield Finding(("extra_ca",), f"{path} holds a private key", hint)
    elif "-----BEGIN CERTIFICATE-----" not in text:
        hint = "It must hold PEM blocks that start with -----BEGIN CERTIFICATE-----"
        yield Finding(("extra_ca",), f"{path} holds no certificate", hint)
