"""A catalog of well-known servers, each with the least network policy that it works with.

`entry("github")` is the mapping to write into the configuration file; nothing in it is hidden from the user who
accepts it. What the catalog cannot know (a folder, a database's host, a token) is a `Need`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from registry.file.document import parse
from registry.model.errors import sentence
from registry.model.fields import Flag, Texts, Transport, check_name, to_tuple
from registry.model.mounts import split_mount
from registry.model.network import PortEntry, host_text
from registry.model.plain_secrets import secret_name
from registry.model.server import Frozen, Server
from registry.model.sources import PackageSource
from registry.model.spec import plan


class CatalogError(LookupError):
    """Raised when the catalog has no server of that name; the text names the nearest."""


class Variable(Frozen):
    """A value that the server takes: an environment variable, or a secret in its arguments."""

    name: str
    description: str
    secret: Flag = False
    required: Flag = False
    default: str | None = None


class MountPoint(Frozen):
    """A place in the container where the server looks for files."""

    target: str
    description: str
    required: Flag = False
    example: str = "./data"


class AllowedHost(Frozen):
    """A host the server needs, and what for."""

    host: str
    reason: str


class DefaultNetwork(Frozen):
    """The least that the server works with."""

    allowed_hosts: tuple[AllowedHost, ...] = ()
    allowed_ports: tuple[PortEntry, ...] = ()
    direct: str | None = None
    protocol: str | None = None
    """`tcp` where the hosts that a user adds speak a protocol other than HTTP and TLS."""

    @property
    def block(self) -> dict[str, Any]:
        """As a `network` block; without hosts, one that allows nothing."""
        block: dict[str, Any] = {"isolated": True}
        if self.allowed_hosts:
            block["allowed_hosts"] = [item.host for item in self.allowed_hosts]
        if self.allowed_ports:
            block["allowed_ports"] = list(self.allowed_ports)
        if self.direct:
            block["direct"] = self.direct
        return block


class Tool(Frozen):
    """A tool of the server, as of the day the catalog was written."""

    name: str
    description: str


class CatalogServer(Frozen):
    """One server in the catalog."""

    name: Annotated[str, AfterValidator(check_name)]
    title: str
    description: str
    homepage: str
    tags: Annotated[tuple[str, ...], BeforeValidator(to_tuple)] = ()
    command: str | None = None
    image: str | None = None
    args: Texts = ()
    type: Transport = Transport.STDIO
    port: int | None = None
    packages: tuple[str, ...] = ()
    env: tuple[Variable, ...] = ()
    inputs: tuple[Variable, ...] = ()
    """Secrets that stand in its arguments."""
    mounts: tuple[MountPoint, ...] = ()
    storage: tuple[str, ...] = ()
    """Where it keeps its own files, unless the user mounts something there."""
    network: DefaultNetwork = DefaultNetwork()
    network_note: str = ""
    needs_host: Flag = False
    """True: it is of no use until the user allows a host of their own."""
    tools: tuple[Tool, ...] = ()

    @property
    def source(self) -> str:
        """The package or image, for display."""
        found = plan(Server.model_validate({"command": self.command, "image": self.image, "args": self.args}))
        return found.package if isinstance(found, PackageSource) else self.image or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """The user's changes to what the catalog proposes."""

    allow_hosts: Sequence[str] = ()
    """Hosts to allow besides the catalog's."""
    allow_ports: Sequence[int | str] = ()
    """Ports instead of the catalog's."""
    isolated: bool = True
    network: Mapping[str, Any] | None = None
    """A whole `network` block instead of the catalog's; the three above are ignored."""
    env: Mapping[str, str] | None = None
    mounts: Sequence[str] = ()
    """`SOURCE:TARGET[:ro]`."""
    args: Sequence[str] = ()
    """Arguments after the catalog's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Something that the user must provide before the server can work."""

    kind: str
    """`env`, `secret`, `mount` or `host`."""
    name: str
    """The variable's, the secret's or the mount point's name."""
    description: str
    hint: str


@functools.cache
def servers() -> Mapping[str, CatalogServer]:
    """The catalog, by name."""
    found = {}
    for file in sorted((files("registry") / "data").iterdir(), key=lambda item: item.name):
        if file.name.endswith(".yaml"):
            document = parse(file.read_text("utf-8"), file.name)
            server = CatalogServer.model_validate(document.value)
            found[server.name] = server
    return found


def search(query: str = "") -> list[CatalogServer]:
    """The servers that match every word of the query, best first; all of them for an empty query."""
    words = re.findall(r"[a-z0-9]+", query.lower())
    scored = [(score(server, words), server) for server in servers().values()]
    return [server for points, server in sorted(scored, key=lambda item: (-item[0], item[1].name)) if points > 0]


def score(server: CatalogServer, words: Sequence[str]) -> int:
    """How well a server matches the words; 0 when one of them is missing."""
    fields = (
        (8, server.name),
        (6, " ".join([server.title.lower(), *server.tags])),
        (3, server.description.lower()),
        (1, " ".join(f"{tool.name} {tool.description}" for tool in server.tools).lower()),
    )
    points = [max((weight for weight, text in fields if word in text), default=0) for word in words]
    return 0 if 0 in points else 1 + sum(points)


def info(name: str) -> CatalogServer:
    """The server of that name. Raises CatalogError."""
    found = servers().get(name)
    if found is None:
        from registry.check.problems import unknown_key

        _, hint = unknown_key(name, list(servers()))
        raise CatalogError(f"{sentence(f'the catalog has no server {name!r}')} {sentence(hint)}")
    return found


def entry(name: str, overrides: Overrides | None = None) -> dict[str, Any]:
    """The mapping to write into the configuration file. Raises CatalogError when there is no such server."""
    server, wanted = info(name), overrides or Overrides()
    result: dict[str, Any] = {}
    if server.type is Transport.HTTP:
        result |= {"type": "http", "port": server.port}
    result |= {"image": server.image} if server.image else {"command": server.command}
    result["args"] = [*server.args, *wanted.args]
    if server.packages:
        result["packages"] = list(server.packages)
    if env := environment(server, wanted):
        result["env"] = env
    targets = {split_mount(text)[1] for text in wanted.mounts}
    if wanted.mounts:
        result["mounts"] = list(wanted.mounts)
    if kept := [path for path in server.storage if path not in targets]:
        result["storage"] = kept if len(kept) > 1 else kept[0]
    result["network"] = network(server, wanted)
    return {key: value for key, value in result.items() if value != []}


def environment(server: CatalogServer, wanted: Overrides) -> dict[str, str]:
    """The variables: those given, references for secrets that are required, and defaults."""
    given = dict(wanted.env or {})
    for item in server.env:
        if item.name in given:
            continue
        if item.secret and item.required:
            given[item.name] = f"${{secret:{secret_name(item.name)}}}"
        elif item.default is not None:
            given[item.name] = item.default
    return given


def network(server: CatalogServer, wanted: Overrides) -> dict[str, Any]:
    """The `network` block: the catalog's, with the user's additions and changes."""
    if wanted.network is not None:
        return dict(wanted.network)
    if not wanted.isolated:
        return {"isolated": False}
    block = server.network.block
    if wanted.allow_hosts:
        more = [host_rule(text, server.network.protocol) for text in wanted.allow_hosts]
        hosts = block.get("allowed_hosts", [])
        block["allowed_hosts"] = [*hosts, *(item for item in more if item not in hosts)]
    if wanted.allow_ports:
        block["allowed_ports"] = list(wanted.allow_ports)
    return block


def host_rule(text: str, protocol: str | None) -> str | dict[str, Any]:
    """An entry of `allowed_hosts`; a mapping where it must name a protocol too."""
    host = host_text(text)
    if protocol is None or host == text:
        return text
    return {"host": host, "port": int(text.rpartition(":")[2]), "protocol": protocol}


def needs(name: str, overrides: Overrides | None = None) -> list[Need]:
    """What the user must still provide: variables, secrets to store, folders to mount, a host to allow."""
    server, wanted = info(name), overrides or Overrides()
    found = [need_of(item) for item in (*server.env, *server.inputs) if item.required and not given(item, wanted)]
    targets = {split_mount(text)[1] for text in wanted.mounts}
    for point in server.mounts:
        if point.required and point.target not in targets:
            hint = f"--mount {point.example}:{point.target} (with :ro at the end for read-only)"
            found.append(Need(kind="mount", name=point.target, description=point.description, hint=hint))
    if server.needs_host and not wanted.allow_hosts and wanted.network is None and wanted.isolated:
        hint = "--allow-host HOST:PORT"
        found.append(Need(kind="host", name="allowed_hosts", description=server.network_note, hint=hint))
    return found


def given(item: Variable, wanted: Overrides) -> bool:
    return item.name in (wanted.env or {})


def need_of(item: Variable) -> Need:
    if not item.secret:
        return Need(kind="env", name=item.name, description=item.description, hint=f"--env {item.name}=VALUE")
    name = secret_name(item.name)
    return Need(kind="secret", name=name, description=item.description, hint=f"stockade secret set {name}")


__all__ = ["CatalogError", "CatalogServer", "Need", "Overrides", "entry", "info", "needs", "search", "servers"]
