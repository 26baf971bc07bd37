"""From a server's configuration and this machine to what a `BackendInstance` is made from: images, secrets, certificates."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from gateway.disk import naming
from gateway.runtime.containers.backend_instance import Wanted
from gateway.runtime.containers.build_wall import BuildWalls
from gateway.runtime.containers.hidden import hiding
from gateway.runtime.containers.secret_files import FilledFiles
from gateway.runtime.engine.base import ContainerPlan, ImageInfo
from gateway.runtime.images.build_settings import certificates
from gateway.runtime.images.images import Images
from gateway.runtime.images.inside import Inside, above, look_inside
from gateway.runtime.images.projects.builds import Projects
from gateway.runtime.images.projects.files import folder_state
from gateway.runtime.images.projects.finder import find_project, require_readable
from gateway.runtime.images.projects.layout import Layout
from gateway.runtime.images.recipes import VERSION_LABEL
from gateway.runtime.images.wall import Wall
from gateway.runtime.inventory.context import RuntimeContext
from gateway.runtime.inventory.users import backend_holder, instance_holder
from gateway.runtime.plan.homes import command_line, numeric_uid, user_of
from gateway.runtime.plan.plans import CaBundle, backend_plan, check_image_user, check_own_port
from gateway.runtime.plan.policy_ports import policy_ports
from gateway.runtime.plan.project_mounts import hidden_folders, with_folders
from gateway.runtime.sandbox.errors import EngineError
from gateway.runtime.sandbox.secrets import Secrets
from registry.model.errors import ConfigError, Invalid
from registry.model.references import GIVEN
from registry.model.server import Server
from registry.model.sources import ImageSource, LocalSource, PackageSource, ProjectSource, RemoteSource
from registry.model.spec import plan_source

RUN_FIELDS: Final = (
    "type", "command", "args", "cwd", "source", "python", "node", "image", "entrypoint", "env", "secret_files", "port",
    "path", "mounts", "storage", "resources", "packages", "build", "user", "sessions", "start_timeout_s", "disabled",
)  # fmt: skip
"""The fields of a server that its containers are made from; a change of any other needs no new container."""


def given_by(given: Server | LocalSource) -> dict[str, Mapping[str, str]]:
    """What a server gets in which references are filled in, each text under a name for messages."""
    found: dict[str, Mapping[str, str]] = {}
    for key in GIVEN:
        value = getattr(given, key, ())  # a package has no entrypoint
        found[key] = value if isinstance(value, Mapping) else {f"{key}[{at}]": text for at, text in enumerate(value)}
    return found


def looked_at(source: ProjectSource) -> tuple[Layout, ProjectSource]:
    """A project as it lies on the disk, and the source with its folders among the mounts. Raises PlanError."""
    layout = find_project(source)
    mounted = with_folders(source, layout)
    if mounted.mounts != source.mounts:
        require_readable(source, layout)
    return layout, mounted


def all_given(source: LocalSource) -> dict[str, str]:
    """All of `given_by` together: no variable's name is that of an argument (`args[0]`)."""
    return {name: text for texts in given_by(source).values() for name, text in texts.items()}


def source_state(server: Server) -> str:
    """What can be seen of a project's folder now; empty for what is no project, and where nothing can be seen."""
    try:
        source = plan_source(server)
        return folder_state(find_project(source)) if isinstance(source, ProjectSource) else ""
    except (Invalid, OSError, ValueError, RecursionError):  # also files that are not what their names say
        return ""


class Planner:
    """Plans backends. It reads files and asks the engine about images; it makes no container."""

    def __init__(
        self, context: RuntimeContext, images: Images, walls: BuildWalls, secrets: Secrets, ca_file: Path
    ) -> None:
        """`ca_file` is where the combined bundle of `extra_ca` is written, for containers to mount."""
        self.context = context
        self.images = images
        self.walls = walls
        self.projects = Projects(images)
        self.secrets = secrets
        self.ca_file = ca_file
        self.looking = asyncio.Lock()
        self.looked: dict[tuple[str, tuple[str, ...], tuple[str, ...]], Inside] = {}
        """By the image's ID, the command and where the entry mounts something."""

    def key(self, server: Server, extra_ca: Path | None) -> str:
        """A hash of what the server's containers are made from (secrets as they are now; no command is run)."""
        parts: dict[str, Any] = server.model_dump(mode="json", include=set(RUN_FIELDS))
        parts["isolated"] = server.isolated
        with contextlib.suppress(ConfigError, ValueError):
            given = {**given_by(server), "secret_files": server.secret_files}
            parts |= {key: self.secrets.resolve(values, commands=False) for key, values in given.items()}
        parts["ca"] = ca.digest if (ca := self.ca_bundle(extra_ca)) else ""
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def ca_bundle(self, extra_ca: Path | None) -> CaBundle | None:
        """The combined bundle of `extra_ca`, written where containers mount it from."""
        if extra_ca is None:
            return None
        content = certificates(os.environ, Path("/"), extra_ca) or b""
        digest = hashlib.sha256(content).hexdigest()[:16]
        path = self.ca_file
        if not path.exists() or path.read_bytes() != content:
            with naming(path):
                path.write_bytes(content)
                path.chmod(0o644)
        return CaBundle(path=path, digest=digest)

    async def wanted(self, instance: str, server: Server, extra_ca: Path | None) -> Wanted:
        """What an instance is made from, its image at hand. Raises BuildError, PlanError, ConfigError, EngineError."""
        source = plan_source(server)
        assert not isinstance(source, RemoteSource)
        ports = policy_ports(server.network.block, server.port)
        if server.isolated:
            check_own_port(server.port)
        await asyncio.to_thread(self.check_filled, source, server)  # before minutes of building
        wall = self.walls.of(instance.partition("/")[0], server.build.allowed_hosts)
        image, source, hidden = await self.image_of(source, wall)
        info = None if isinstance(source, ImageSource) else await self.context.engine.image(image)
        files = FilledFiles(lambda: self.secrets.resolve(server.secret_files))
        return Wanted(
            instance=instance,
            server=server,
            source=source,
            ports=ports,
            version=info.labels.get(VERSION_LABEL, "") if info is not None else "",
            files=files,
            plan=lambda door: self.plan_backend(instance, server, source, image, door, extra_ca, files, hidden),
        )

    def try_again(self, server: Server) -> None:
        """The next `wanted` of it builds its image even if that failed before."""
        source = plan_source(server)
        if isinstance(source, PackageSource):
            self.images.try_again(source)
        elif isinstance(source, ProjectSource):
            self.projects.try_again(source)

    def check_filled(self, source: LocalSource, server: Server) -> None:
        """Raises ConfigError with every reference that cannot be filled in; runs no command."""
        self.secrets.resolve({**all_given(source), **server.secret_files}, commands=False)

    def filled(self, source: LocalSource) -> tuple[LocalSource, Mapping[str, str]]:
        """The source with its references filled in, and its variables: each command is run once.

        Raises ConfigError with every reference that cannot be.
        """
        given = given_by(source)
        values = self.secrets.resolve(all_given(source))
        found = {key: {name: values[name] for name in texts} for key, texts in given.items()}
        args = tuple(found["args"].values())
        if not isinstance(source, ImageSource):
            return replace(source, args=args), found["env"]
        entrypoint = tuple(found["entrypoint"].values())
        return replace(source, args=args, command=args, entrypoint=entrypoint), found["env"]

    async def image_of(self, source: LocalSource, wall: Wall) -> tuple[str, LocalSource, tuple[str, ...]]:
        """The image that runs it, built or pulled if need be; of a project also its folders among the mounts, and which
        folders in them are hidden."""
        if isinstance(source, PackageSource):
            return await self.images.package(source, wall), source, ()
        if isinstance(source, ProjectSource):
            layout, mounted = await asyncio.to_thread(looked_at, source)
            return await self.projects.image(source, layout, wall), mounted, hidden_folders(source, layout)
        await self.images.ready(source.image)
        return source.image, source, ()

    async def plan_backend(
        self,
        instance: str,
        server: Server,
        source: LocalSource,
        image: str,
        door: str,
        extra_ca: Path | None,
        files: FilledFiles,
        hidden: tuple[str, ...] = (),
    ) -> ContainerPlan:
        """The backend's plan, with its secrets filled in."""
        info = await self.context.engine.image(image)
        if info is None:
            raise EngineError(f"Image {image} is gone from the engine.")
        inside = await self.inside(image, source, info)  # before any secret is filled in
        filled, env = await asyncio.to_thread(self.filled, source)
        user = user_of(source, info)
        own = "" if user else await self.own_user(instance, source)
        if not source.user:
            check_image_user(numeric_uid(user), self.context.users.span)
        plan = backend_plan(
            self.context.names,
            instance,
            server,
            filled,
            image=image,
            info=info,
            env=env,
            ca=await asyncio.to_thread(self.ca_bundle, extra_ca),
            door=door,
            nofile=self.context.nofile(),
            own=own,
            inside=replace(inside, hidden=hidden),
            files=await files.look(),
        )
        return await asyncio.to_thread(hiding, plan)

    async def inside(self, image: str, source: LocalSource, info: ImageInfo) -> Inside:
        """What is in an image that the user named, looked at once; of ours everything is known."""
        targets = tuple(mount.target for mount in source.mounts)
        if isinstance(source, ProjectSource):
            return Inside()  # its image lets everybody through /root where that is above the project
        if not isinstance(source, ImageSource):
            return Inside(closed=("/root",) if "/root" in above(targets) else ())
        key = (info.id, command_line(source, info), targets)
        async with self.looking:
            if key not in self.looked:
                self.looked[key] = await look_inside(self.context.engine, image, info, *key[1:])
            return self.looked[key]

    async def own_user(self, instance: str, source: LocalSource) -> str:
        """The user and group of an instance; all sessions of a backend share its group."""
        group = await self.context.users.of(backend_holder(instance.partition("/")[0]))
        return f"{await self.context.users.of(instance_holder(instance, source.mounts))}:{group}"
