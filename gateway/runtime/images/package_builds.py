"""Installs a package in a container as isolated from this machine as a backend's: code of the package may run meanwhile.

Theory of operation. The engine's builder has no seccomp profile, no limit on processes and no user except root.
So a package is installed in a container of ours: no capability, our profile, a user that nothing else runs as, bounds
on memory, processors, processes and time. What it installed is copied out of the container's image; all else of it is
thrown away. Where the host has credentials for a registry there are two such containers: in the first, which has them,
the package is only downloaded; in the second, which has not, its code runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shlex
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from gateway.runtime.engine.base import BuildContext, Builder, ContainerInfo, ContainerPlan, Mount
from gateway.runtime.engine.seccomp import backend_profile
from gateway.runtime.images import recipes
from gateway.runtime.images.build_errors import InstallFailed, OutOfMemory, OutOfTime, explain_failure
from gateway.runtime.images.build_settings import INSIDE, BuildSettings
from gateway.runtime.images.inside import content
from gateway.runtime.images.needs import MOST, NEEDED_FILE, need_of
from gateway.runtime.images.recipes import Recipe, Step
from gateway.runtime.images.stages import housekeeping, tidy_stages
from gateway.runtime.images.wall import NO_WALL, HostEntry, Wall, Way
from gateway.runtime.sandbox.errors import BuildError

logger = logging.getLogger(__name__)

MIB: Final = 1024 * 1024
MEMORY: Final = 2048 * MIB
CPUS: Final = 1.0
PIDS: Final = 512
BUILDERS: Final = range(65520, 65533)
"""Users that no account and no container of ours has, so that a build uses up no server's per-user kernel limits."""
LOOK_S: Final = 0.25
LOG_LINES: Final = 200
BUILD_TIMEOUT_S: Final = 600.0
PROJECT: Final = "/stockade-project"
"""Where a step finds the files of a project."""
PROJECT_SIZE: Final = "1g"
DEEPEST: Final = 120
"""Parts of the path of a project's file."""
VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_-]{0,63}")
"""A version in the label of an image; what a package's own code wrote instead is left out."""
MOST_OF_VERSION: Final = 16 * 1024
"""Bytes of the archive with it."""


class ProjectFiles(Protocol):
    """Files of a project."""

    @property
    def path(self) -> str:
        """Where they lie in the step's container as well."""
        ...

    @property
    def files(self) -> Mapping[str, bytes]:
        """Path below that -> content."""
        ...

    @property
    def programs(self) -> Collection[str]:
        """Those that may be executed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageBuild:
    """One installation."""

    engine: Builder
    wanted: Recipe
    """The image to make."""
    builder: str
    """The image to install in."""
    steps: tuple[Step, ...]
    settings: BuildSettings
    timeout_s: float
    """For each step."""
    wall: Wall = NO_WALL
    hosts: Sequence[HostEntry] = ()
    """The registries that it needs."""
    folder: Path | None = None
    """Where the engine sees what we write; None where it sees the folder for temporary files."""
    browser: bool = False
    """Whether the builder has a browser."""
    project: ProjectFiles | None = None
    """The files of a project that the steps see."""
    download: ProjectFiles | None = None
    """Those of them that a step with credentials sees: no code of the project."""

    async def run(self) -> None:
        """Makes the image. Raises BuildError with what to do, InstallFailed where another try may help."""
        stage = secrets.token_hex(8)
        user = BUILDERS[secrets.randbelow(len(BUILDERS))]  # for all steps: what one has written, the next changes
        with tempfile.TemporaryDirectory(prefix="build-", dir=self.folder) as folder:
            try:
                installed, version = self.builder, ""
                async with self.wall.open(self.hosts, self.settings) as way:
                    for number, step in enumerate(self.steps):
                        name = f"{stage}-{number}"
                        installed, version = await self.step(step, installed, user, name, Path(folder), way)
                    for one in way.refused():
                        logger.warning(
                            "%s was built, but not all that it wanted: %s", self.wanted.subject, one.sentence
                        )
                await self.engine.build(self.context(installed, version), self.wanted.reference, log)
            except InstallFailed as error:
                if error.need is not None:
                    raise
                text = explain_failure(
                    self.wanted.subject, str(error), error.stopped, browser=self.browser, refused=error.refused
                )
                raise BuildError(text) from None
            except BuildError as error:
                raise BuildError(explain_failure(self.wanted.subject, str(error))) from None
            finally:
                await tidy_stages(self.engine, f"{recipes.STAGE_LABEL}={stage}")

    def context(self, installed: str, version: str) -> BuildContext:
        """What the engine's builder does in the end: it copies, and runs nothing of the package."""
        dockerfile = self.wanted.dockerfile.replace(recipes.INSTALLED, installed)
        if VERSION.fullmatch(version):
            dockerfile += f"LABEL {recipes.VERSION_LABEL}={version}\n"
        return BuildContext(dockerfile=dockerfile, files=self.wanted.files, build_args={})

    async def step(self, step: Step, image: str, user: int, name: str, folder: Path, way: Way) -> tuple[str, str]:
        """Runs one step to its end; the image of its container then, and the version of the package in it."""
        settings = self.settings.for_download if step.credentials else self.settings
        given = await asyncio.to_thread(lay_out, folder / name, settings, way.proxies)
        project = self.download if step.credentials else self.project
        files = await asyncio.to_thread(lay_out_project, folder / f"{name}-project", project)
        plan = install_plan(step, image, user, name, given, way.network, self.timeout_s)
        if files and project:
            plan = with_project(plan, files, project.path, user)
        container = await self.engine.create(plan)
        try:
            await self.engine.start(container)
            await self.end_of(container, way)
            version = await self.engine.archive(container, recipes.VERSION_FILE, MOST_OF_VERSION)
            return await self.engine.commit(container, dict(plan.labels)), content(version).strip()
        finally:
            with housekeeping(f"the container of a build, {container[:12]},"):
                await self.engine.remove(container)
            for left in filter(None, (given, files)):
                await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)

    async def end_of(self, container: str, way: Way) -> None:
        """Waits for the container's end. Raises InstallFailed when it failed, or took too long."""
        info: ContainerInfo | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.timeout_s):
                while True:
                    info = await self.engine.inspect(container)
                    if info is None or info.finished:
                        break
                    await asyncio.sleep(LOOK_S)
        if info is not None and info.finished and info.exit_code == 0:
            return
        printed = "\n".join(line.text for line in await self.engine.logs(container, LOG_LINES))
        if info is None or not info.finished:
            raise InstallFailed(printed, OutOfTime(self.timeout_s), refused=way.refused())
        if info.out_of_memory:
            raise InstallFailed(printed, OutOfMemory(MEMORY // MIB), refused=way.refused())
        written = await self.engine.archive(container, NEEDED_FILE, MOST)
        raise InstallFailed(printed, need=need_of(info.exit_code, content(written)), refused=way.refused())


def install_plan(
    step: Step, image: str, user: int, name: str, given: Path, network: str, timeout_s: float
) -> ContainerPlan:
    """The container in which a package is installed. It ends by itself, even if the gateway is gone.

    It has no variables: the engine would keep them in the image of the container, and the next step would see them.
    """
    return ContainerPlan(
        name=f"stockade-build-{name}",
        image=image,
        command=("timeout", "-s", "KILL", f"{timeout_s:g}", "sh", "-eu", "-c", step.script),
        entrypoint=(),
        user=f"{user}:{user}",
        labels=((recipes.STAGE_LABEL, name.partition("-")[0]),),
        network=network,
        read_only=False,
        mounts=(Mount(source=str(given), target=INSIDE),),
        memory_bytes=MEMORY,
        cpus=CPUS,
        pids=PIDS,
        seccomp=backend_profile(),
    )


def with_project(plan: ContainerPlan, files: Path, path: str, user: int) -> ContainerPlan:
    """With a project's files to read, and memory of its own at the project's path, where a copy of them can be built."""
    owned = f"rw,nosuid,nodev,exec,size={PROJECT_SIZE},mode=0755,uid={user},gid={user}"
    passage = f"rw,nosuid,nodev,size=64k,mode=0755,uid={user},gid={user}"
    above = (("/root", passage),) if path.startswith("/root/") else ()
    return replace(
        plan, mounts=(*plan.mounts, Mount(source=str(files), target=PROJECT)), tmpfs=(*above, (path, owned))
    )


def lay_out_project(folder: Path, project: ProjectFiles | None) -> Path | None:
    """A project's files, as the container's user can read them. Raises BuildError."""
    if project is None:
        return None
    folder.mkdir()
    for name, written in project.files.items():
        mode = 0o755 if name in project.programs else 0o644
        try:
            lay_out_file(folder, name, written, mode)
        except OSError as error:
            raise BuildError(
                f"{project.path}/{name!r} cannot be laid out for the installation: {error.strerror}. Rename or remove it."
            ) from None
    for inner in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        inner.chmod(0o755)
    return folder


def lay_out_file(folder: Path, name: str, written: bytes, mode: int) -> None:
    """One new file in a folder of ours. Raises OSError, and BuildError for a name that leads out of the folder.

    Names come from a project's manifests, which others have written.
    """
    parts = name.split("/")
    if "\0" in name or any(part in ("", ".", "..") for part in parts) or len(parts) > DEEPEST:
        raise BuildError(
            f"The project names a file {name[:200]!r}, which is not a plain path below its folder, of {DEEPEST} parts at "
            "most. Name it in its manifests by its path from the project's folder on, without `..`."
        )
    path = folder.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(written)
        os.fchmod(file.fileno(), mode)


def lay_out(folder: Path, settings: BuildSettings, proxies: Mapping[str, str]) -> Path:
    """The settings as files that the container's user can read, in a folder that no other user can reach."""
    folder.mkdir()
    exports = "".join(f"export {name}={shlex.quote(text)}\n" for name, text in proxies.items())
    env = settings.files.get("env", b"") + exports.encode()
    for name, written in {**settings.files, "env": env}.items():
        (folder / name).write_bytes(written)
        (folder / name).chmod(0o644)
    folder.chmod(0o755)
    return folder


def log(line: str) -> None:
    logger.debug("build: %s", line)
