"""From a server's configuration to the containers that run it. Pure.

Nothing here asks an engine; what the engine knows about an image (its user) is passed as a value.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from egress.door.ports import OWN_PORTS
from egress.net.resolver import RESOLVING
from gateway.runtime.engine.base import (
    PROJECT_LABEL,
    USER_LABEL,
    ContainerPlan,
    ImageInfo,
    Mount,
    NetworkPlan,
)
from gateway.runtime.engine.base import (
    inside as namespace_of,
)
from gateway.runtime.engine.seccomp import backend_profile
from gateway.runtime.images.inside import Inside
from gateway.runtime.plan.environment import CA_INSIDE, JAVA, ca_variables, java_options, proxy_variables
from gateway.runtime.plan.homes import home_of, numeric_uid, tmpfs_of, user_of, workdir_of
from gateway.runtime.sandbox.base import transport_of
from gateway.runtime.sandbox.errors import PlanError
from registry.model.errors import Invalid
from registry.model.mount_risks import ENGINE_SOCKETS, Risk
from registry.model.mounts import Mount as EntryMount
from registry.model.mounts import refuse_moved
from registry.model.server import Server
from registry.model.sources import ImageSource, LocalSource

CONTROL_INSIDE: Final = "/run/stockade/control"
DOORS_INSIDE: Final = "/run/stockade/doors"

MIB: Final = 1024 * 1024
MAX_NAME: Final = 64
DOOR_CAPABILITIES: Final = ("NET_ADMIN", "SETGID", "SETPCAP", "SETUID")
"""To add one route and then to become an unprivileged user; the door then drops them, and its bounding set."""
DOOR_SYSCTLS: Final = (
    ("net.ipv4.icmp_echo_ignore_all", "1"),
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv6.conf.all.disable_ipv6", "1"),
    ("net.ipv6.conf.default.disable_ipv6", "1"),
)
EGRESS_SYSCTLS: Final = (
    ("net.ipv4.ip_forward", "0"),
    ("net.ipv4.ip_local_port_range", "1024 65535"),
    ("net.ipv4.tcp_tw_reuse", "1"),
)
"""All backends' connections to one host share the egress's own ports: as many as there are, and soon free again."""
FORBIDDEN_MOUNTS: Final = re.compile(rf"({'|'.join(map(re.escape, ENGINE_SOCKETS))})$")
UNKNOWN: Final = Inside()
PLAIN_PATH: Final = re.compile(r"(?:/[A-Za-z0-9.-]+)+")


def bounded(name: str, suffix: str = "") -> str:
    """A name of at most `MAX_NAME` characters, its suffix whole."""
    if len(name) + len(suffix) <= MAX_NAME:
        return name + suffix
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name[: MAX_NAME - len(suffix) - len(digest) - 1]}-{digest}{suffix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What things of a project are called on the engine. No container and no network has more than 64 characters.

    A longer name is cut in its middle, where a digest of the whole keeps it unique. Volumes are never renamed: they hold
    a server's files.
    """

    project: str

    @property
    def egress(self) -> str:
        """The egress container and its network."""
        return f"stockade-{self.project}-egress"

    @property
    def egress_network(self) -> str:
        """The only network that the egress is on."""
        return f"stockade-{self.project}-egress-net"

    def backend(self, instance: str) -> str:
        """A backend's container."""
        name, _, session = instance.replace(":", "--").partition("/")  # no server's name has two hyphens in a row
        suffix = f"-{hashlib.sha256(session.encode()).hexdigest()[:10]}" if session else ""
        return bounded(f"stockade-{self.project}-b-{name}", suffix)

    def door(self, instance: str) -> str:
        """A backend's door."""
        return bounded(self.backend(instance), "-door")

    def owner(self, instance: str) -> str:
        """The container that gives a backend its volumes."""
        return bounded(self.backend(instance), "-owner")

    def network(self, instance: str) -> str:
        """The network of a backend that is not isolated."""
        return bounded(self.backend(instance), "-net")

    def connector(self, network: str) -> str:
        """The connector on a network that backends join."""
        return bounded(f"stockade-{self.project}-c-{network}")

    def volume(self, name: str) -> str:
        """The volume that an entry of `mounts` names: shared by the servers of the project, and by no others."""
        return f"stockade-{self.project}-v-{name}"

    def storage(self, backend: str, path: str) -> str:
        """The volume of a path that a backend keeps (`storage`): of that backend alone. No name of a project or a server has
        an underscore, and no other name of ours begins like this."""
        plain = path[1:].replace("/", "_")
        if not PLAIN_PATH.fullmatch(path) or len(plain) > MAX_NAME:
            plain = f"_{hashlib.sha256(path.encode()).hexdigest()[:16]}"
        return f"stockade_{self.project}_{backend}_{plain}"

    def labels(self, role: str, instance: str = "", uid: int | None = None) -> tuple[tuple[str, str], ...]:
        """Hints for people, for the engine's event filter and for other gateways; never proof of ownership."""
        user = ((USER_LABEL, str(uid)),) if uid is not None else ()
        return ((PROJECT_LABEL, self.project), ("stockade.role", role), ("stockade.instance", instance), *user)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaBundle:
    """The combined certificate bundle of `extra_ca`."""

    path: Path
    """On the host."""
    digest: str


def egress_plan(
    names: Names, image: str, control: Path, doors: Path, nofile: int, uid: int, resolvers: Sequence[str] = ()
) -> ContainerPlan:
    """The container that everything allowed goes through. `resolvers` are asked instead of the engine's."""
    return ContainerPlan(
        name=names.egress,
        image=image,
        command=("python3", "-m", "egress"),
        env=tuple(RESOLVING.items()),
        user=f"{uid}:{uid}",
        labels=names.labels("egress", uid=uid),
        network=names.egress_network,
        tmpfs=(("/tmp", "rw,nosuid,nodev,noexec,size=16m"),),  # noqa: S108
        mounts=(
            Mount(source=str(control), target=CONTROL_INSIDE, read_only=False),
            Mount(source=str(doors), target=DOORS_INSIDE, read_only=False),
        ),
        sysctls=EGRESS_SYSCTLS,
        dns=tuple(resolvers),
        memory_bytes=1024 * MIB,
        pids=128,
        nofile=nofile,
        seccomp=backend_profile(),
    )


def egress_network_plan(names: Names) -> NetworkPlan:
    """The bridge that only the egress is on."""
    return NetworkPlan(name=names.egress_network, labels=names.labels("egress-network"))


def door_plan(
    names: Names,
    instance: str,
    image: str,
    doors: Path,
    *,
    nonce: str,
    generation: int,
    ports: frozenset[int],
    nofile: int,
    uid: int,
) -> ContainerPlan:
    """The container that owns a backend's network namespace. It becomes user `uid` once its sockets are made."""
    return ContainerPlan(
        name=names.door(instance),
        image=image,
        command=("python3", "-m", "egress.door.door"),
        env=(
            ("STOCKADE_DOOR", instance),
            ("STOCKADE_NONCE", nonce),
            ("STOCKADE_GENERATION", str(generation)),
            ("STOCKADE_PORTS", ",".join(str(port) for port in sorted(ports))),
            ("STOCKADE_USER", str(uid)),
        ),
        user="0:0",
        labels=names.labels("door", instance, uid),
        capabilities=DOOR_CAPABILITIES,
        mounts=(Mount(source=str(doors), target=DOORS_INSIDE),),
        sysctls=DOOR_SYSCTLS,
        dns=("127.0.0.1",),
        memory_bytes=64 * MIB,
        pids=16,
        nofile=min(nofile, 4096),
        init=False,
        seccomp=backend_profile(),
    )


def connector_plan(
    names: Names,
    network: str,
    identity: str,
    image: str,
    doors: Path,
    *,
    nonce: str,
    generation: int,
    nofile: int,
    uid: int,
) -> ContainerPlan:
    """The container that stands on a network which backends join, and dials there for the egress."""
    return ContainerPlan(
        name=names.connector(network),
        image=image,
        command=("python3", "-m", "egress.door.connector"),
        env=(
            ("STOCKADE_DOOR", identity),
            ("STOCKADE_NONCE", nonce),
            ("STOCKADE_GENERATION", str(generation)),
            ("STOCKADE_USER", str(uid)),
            *RESOLVING.items(),
        ),
        user=f"{uid}:{uid}",
        labels=names.labels("connector", identity, uid),
        network=network,
        mounts=(Mount(source=str(doors), target=DOORS_INSIDE),),
        sysctls=(("net.ipv4.ip_forward", "0"),),
        memory_bytes=128 * MIB,
        pids=64,
        nofile=min(nofile, 4096),
        init=False,
        seccomp=backend_profile(),
    )


def backend_network_plan(names: Names, instance: str) -> NetworkPlan:
    """The ordinary network of a backend that is not isolated: its own, never the engine's default."""
    return NetworkPlan(name=names.network(instance), labels=names.labels("backend-network", instance))


def backend_plan(
    names: Names,
    instance: str,
    server: Server,
    source: LocalSource,
    *,
    image: str,
    info: ImageInfo,
    env: Mapping[str, str],
    ca: CaBundle | None,
    door: str,
    nofile: int,
    own: str,
    inside: Inside = UNKNOWN,
) -> ContainerPlan:
    """The server's own container. `env` has its secrets filled in; `door` is the door's container ID; `own` is the
    user and group for a server that names none.

    Raises PlanError for what no backend gets.
    """
    network = namespace_of(door) if server.isolated else names.network(instance)
    user, home = user_of(source, info) or own, home_of(source, info, inside)
    environment = {
        **(proxy_variables() if server.isolated else {}),
        **(ca_variables() if ca else {}),
        "HOME": home,
        **env,
    }
    if server.isolated:
        environment[JAVA] = java_options(env, dict(info.env))
    return ContainerPlan(
        name=names.backend(instance),
        image=image,
        command=command_of(source),
        entrypoint=(source.entrypoint or None) if isinstance(source, ImageSource) else None,
        env=tuple(sorted(environment.items())),
        user=user,
        labels=names.labels("backend", instance, numeric_uid(user)),
        network=network,
        tmpfs=tmpfs_of(source, info, inside, user, home),
        mounts=mounts_of(names, instance, source, ca, owner_of(user, inside)),
        memory_bytes=server.resources.memory,
        socket_bytes=server.resources.memory,
        cpus=server.resources.cpus,
        pids=server.resources.pids,
        nofile=min(nofile, 8192),
        stdin=transport_of(server) == "stdio",
        keep_output=transport_of(server) == "http",
        seccomp=backend_profile(),
        working_dir=workdir_of(source, info, inside, home),
        revision=ca.digest if ca else "",
    )


def command_of(source: LocalSource) -> tuple[str, ...] | None:
    """The container's command; an image's own where the entry names none."""
    if not isinstance(source, ImageSource):
        return source.args
    return source.command or None


def mounts_of(names: Names, instance: str, source: LocalSource, ca: CaBundle | None, owner: str) -> tuple[Mount, ...]:
    """The entry's mounts and the certificate bundle; `owner` is whose its storage is. Raises PlanError for a socket.

    A volume is the project's own, so that no server gets files of another project or program, unless the entry accepts that.
    """
    found = []
    for mount in source.mounts:
        if FORBIDDEN_MOUNTS.search(mount.source) or FORBIDDEN_MOUNTS.search(mount.target):
            raise PlanError(
                f"The mount {mount.source} is a container engine's socket: with it a server could escape its isolation. "
                "Remove it."
            )
        found.append(storage_of(names, instance, mount, owner) if mount.storage else mounted(names, mount))
    if ca:
        found.append(Mount(source=str(ca.path), target=CA_INSIDE))
    return tuple(found)


def mounted(names: Names, mount: EntryMount) -> Mount:
    """An entry of `mounts` on the engine."""
    own = mount.volume and Risk.FOREIGN_VOLUME not in mount.accepted
    return Mount(
        source=names.volume(mount.source) if own else mount.source,
        target=mount.target,
        read_only=mount.read_only,
        volume=mount.volume,
        labels=names.labels("volume") if own else (),
    )


def storage_of(names: Names, instance: str, mount: EntryMount, owner: str) -> Mount:
    """A path that a backend keeps. All its sessions have the same."""
    backend = instance.partition("/")[0]
    return Mount(
        source=names.storage(backend, mount.target),
        target=mount.target,
        read_only=False,
        volume=True,
        labels=names.labels("storage", backend),
        owner=owner,
    )


def owner_of(user: str, inside: Inside) -> str:
    """Whose files a server's are, as `UID:GID`; empty for a name that its image does not explain."""
    uid = numeric_uid(user)
    uid = inside.uid if uid is None else uid
    gid = user.partition(":")[2]
    return "" if uid is None else f"{uid}:{gid if gid.isdecimal() else uid}"


def check_mounts(source: LocalSource) -> None:
    """Checks the mounts as they are now, before each start of the container. Raises PlanError."""
    for mount in source.mounts:
        try:
            refuse_moved(mount)
        except Invalid as error:
            finding = error.findings[0]
            raise PlanError(f"The mount {finding.message}. {finding.hint}.") from None


def check_own_port(port: int | None) -> None:
    """Raises PlanError when a backend would listen where its door must: any other port is left to it."""
    if port is None or port not in OWN_PORTS:
        return
    raise PlanError(
        f"It listens on port {port} inside its container, which Stockade itself needs there. Let the "
        "server listen on another port (8000, say) and write that as `port`."
    )


def check_image_user(uid: int | None, ours: range) -> None:
    """Raises PlanError when an image brings a user that would share what is counted per user with `ours`, or with root
    under another name."""
    if uid != 0 and uid not in ours:
        return
    whose = (
        "root by another name"
        if uid == 0
        else f"user {uid}, from the numbers that Stockade gives its own ({ours[0]} on)"
    )
    raise PlanError(
        f'Its image would run as {whose}. Write a `user` for it, such as user: "1234:1234", which '
        "no account of this machine has."
    )


def check_hardening(plan: ContainerPlan) -> None:
    """The last check before a backend is created. Raises PlanError; a plan of ours never asks for such a thing."""
    if plan.capabilities:
        raise PlanError(f"Container {plan.name} asks for {plan.capabilities[0]}; a server gets no capability.")
    if plan.network in ("host", "bridge", "default"):
        raise PlanError(f"Container {plan.name} asks for network {plan.network}; a server never gets that.")
    if not plan.seccomp:
        raise PlanError(f"Container {plan.name} has no seccomp profile.")
