"""Makes the images that are missing: bases (pulled, or with debootstrap), the egress, packaged servers.

An image that is there is never built again (its tag is a hash of its content), so a second start builds nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Literal

from gateway.runtime.engine.base import Builder, ImageInfo
from gateway.runtime.images import recipes
from gateway.runtime.images.bases import PULL_TIMEOUT_S, Bases, NoSuchLine
from gateway.runtime.images.browsers import has_browser
from gateway.runtime.images.build_errors import InstallFailed, explain_failure
from gateway.runtime.images.build_settings import BuildSettings
from gateway.runtime.images.lines import NODE_LINES
from gateway.runtime.images.needs import Compiler, OtherLine, Unmet
from gateway.runtime.images.package_builds import BUILD_TIMEOUT_S, PackageBuild
from gateway.runtime.images.recipes import Recipe
from gateway.runtime.images.registries import allowed_hosts
from gateway.runtime.images.stages import tidy_stages
from gateway.runtime.images.turns import turn
from gateway.runtime.images.wall import NO_WALL, Wall
from gateway.runtime.sandbox.errors import BuildError, EngineError, EngineUnreachable
from registry.model.errors import sentence
from registry.model.sources import PackageSource

logger = logging.getLogger(__name__)

CREDENTIALS = "STOCKADE_BUILD_CREDENTIALS"
"""`visible`: the user accepts that code of packages can read the host's credentials for registries."""


MOST_ATTEMPTS = 12
"""Ways to install one package that are tried; more than there are lines of a language."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One way to install a package."""

    line: str
    """Of Python or Node; empty = the default."""
    compiler: bool = False
    ranged: bool = True
    """Whether the Node that the package asks for counts."""

    def words(self, subject: str) -> str:
        """What is built, for a person."""
        ways = [f"on {self.line}" if self.line else "", "with a compiler" if self.compiler else ""]
        return " ".join([subject, *filter(None, ways)])


class Images:
    """The images of one engine. Each is made at most once at a time."""

    def __init__(
        self,
        engine: Builder,
        settings: Callable[[], BuildSettings],
        say: Callable[[str], None] = lambda line: None,
        timeout_s: Callable[[], float] = lambda: BUILD_TIMEOUT_S,
        folder: Path | None = None,
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.say = say
        """Called with a sentence for each image that is made."""
        self.timeout_s = timeout_s
        """The longest that a package's installation may take."""
        self.folder = folder
        """The gateway's own folder, beside those of the user's other gateways; None: there is none."""
        self.builds = asyncio.Semaphore(2)
        self.installs = asyncio.Semaphore(4)
        """Separate from `builds`: code of packages runs in these, and may take long."""
        self.locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.bases = Bases(engine, self.make, say)
        self.failed: dict[str, str] = {}
        """Builds of packages that failed: minutes that no call should wait for again."""

    async def egress(self) -> str:
        """The name of the image of the egress and the doors, made if need be.

        Every start begins with it, so stages that a killed build left behind are removed here too.
        """
        await tidy_stages(self.engine, recipes.STAGE_LABEL, older_than="1h")
        base, base_id = await self.python_base()
        packages = recipes.egress_packages(base, base_id)
        packages_info = await self.make(packages)
        made = recipes.egress(packages.reference, packages_info.id, egress_source())
        await self.make(made)
        return made.reference

    async def package(self, source: PackageSource, wall: Wall = NO_WALL) -> str:
        """The name of a packaged server's image, made if need be. Raises BuildError, once it failed without another try."""
        key = f"{made_from(source)} {wall.hosts}"
        async with self.locks[f"package {key}"]:
            if failure := self.failed.get(key):
                raise BuildError(failure)
            try:
                return await self.packaged(source, wall)
            except BuildError as error:
                self.failed[key] = str(error)
                raise

    def try_again(self, source: PackageSource) -> None:
        """The next `package` of it builds even if the last one failed."""
        for key in [key for key in self.failed if key.startswith(f"{made_from(source)} ")]:
            del self.failed[key]

    async def packaged(self, source: PackageSource, wall: Wall) -> str:
        """The name of a packaged server's image, made if need be. Raises BuildError.

        Where it is made only with another line or a compiler, the result also gets the name of the first try: the next start
        finds it by that, and builds nothing.
        """
        attempt, tried = Attempt(line=source.runtime_version), set[str]()
        first = ""
        for left in reversed(range(MOST_ATTEMPTS)):
            runtime, builder = await self.prepared(source, attempt)
            wanted = recipes.package_image(source, runtime, builder, ranged=attempt.ranged)
            first = first or wanted.reference
            async with self.locks[wanted.reference]:
                found = await self.engine.image(wanted.reference)
                if found is None:
                    try:
                        await self.install(source, wanted, builder, attempt, wall)
                    except InstallFailed as failed:
                        if not left:
                            raise BuildError(
                                explain_failure(wanted.subject, str(failed), refused=failed.refused)
                            ) from None
                        attempt = await self.next_attempt(source, attempt, failed, tried, wanted.subject)
                        continue
                    found = await self.engine.image(wanted.reference)
            if found is not None and wanted.reference != first:
                await self.engine.tag(found.id, first)
            break
        return first

    async def next_attempt(
        self, source: PackageSource, last: Attempt, failed: InstallFailed, tried: set[str], subject: str
    ) -> Attempt:
        """How to try again what failed. Raises BuildError where nothing is left to try."""
        need = failed.need
        if isinstance(need, Compiler) and not last.compiler:
            return replace(last, compiler=True)
        if isinstance(need, OtherLine) and not source.runtime_version:
            tried.add(await self.base_of(source, last.line))
            for line in need.lines:
                if (base := await self.base_of(source, line)) and base not in tried:
                    return replace(last, line=line)
            if source.kind == "npx" and last.ranged:  # npm itself would only warn
                return replace(last, line="", ranged=False)
        there = await self.bases.python_lines() if source.kind == "uvx" else NODE_LINES
        language: Literal["Python", "Node"] = "Python" if source.kind == "uvx" else "Node"
        unmet = Unmet(need=need, language=language, named=source.runtime_version, there=there) if need else None
        raise BuildError(explain_failure(subject, str(failed), unmet, refused=failed.refused)) from None

    async def base_of(self, source: PackageSource, line: str) -> str:
        """The name of the base of a line; empty where it cannot be had."""
        try:
            return (await (self.bases.python(line) if source.kind == "uvx" else self.bases.node(line)))[0]
        except NoSuchLine:
            return ""

    async def prepared(self, source: PackageSource, attempt: Attempt | None = None) -> tuple[str, str]:
        """The image that a package is to run on, and the one that it is installed in, made if need be."""
        tools = ""
        line = attempt.line if attempt else source.runtime_version
        if source.kind == "uvx":
            tools_recipe = recipes.uv_tools(*await self.bases.python())
            await self.make(tools_recipe)
            tools = tools_recipe.reference
            runtime, runtime_id = await self.bases.python(line)
        else:
            runtime, runtime_id = await self.bases.node(line)
        if wider := recipes.runtime_image(source, runtime, runtime_id):
            runtime, runtime_id = wider.reference, (await self.make(wider)).id
        within, within_id = runtime, runtime_id
        if attempt and attempt.compiler:
            compiler = recipes.compiler_image(runtime, runtime_id)
            within, within_id = compiler.reference, (await self.make(compiler)).id
        builder = recipes.builder_image(source.kind, within, within_id, tools)
        await self.make(builder)
        return runtime, builder.reference

    async def install(
        self, source: PackageSource, wanted: Recipe, builder: str, attempt: Attempt, wall: Wall
    ) -> None:
        """Installs a package and keeps the result as an image. Raises BuildError."""
        settings = await asyncio.to_thread(self.settings)
        apart = source.kind in settings.wanted_by
        if apart and os.environ.get(CREDENTIALS) == "visible":
            settings, apart = settings.for_download, False
        async with self.installs:
            self.say(f"Building {wanted.reference} ({attempt.words(wanted.subject)})")
            await PackageBuild(
                engine=self.engine,
                wanted=wanted,
                builder=builder,
                steps=recipes.install_steps(source, credentials=apart, ranged=attempt.ranged),
                settings=settings,
                wall=wall,
                hosts=allowed_hosts(source.kind, settings, [source.requirement, *source.extra_requirements]),
                timeout_s=self.timeout_s(),
                folder=self.folder,
                browser=has_browser(source.system_packages),
            ).run()

    async def ready(self, reference: str) -> ImageInfo:
        """An image that the user named: as the engine has it, else pulled."""
        async with self.locks[reference]:
            found = await self.engine.image(reference)
            if found is None:
                self.say(f"Pulling {reference}")
                found = await self.pull(reference)
            return found

    async def pull(self, reference: str) -> ImageInfo:
        """A user's image from its registry. Raises EngineError with the next step."""
        try:
            return await self.engine.pull(reference, PULL_TIMEOUT_S * 5)
        except EngineUnreachable:
            raise
        except EngineError as error:
            raise EngineError(
                f"The engine has no image {reference}. {sentence(str(error))} Check the name and that its registry "
                f"can be reached, or make the image here: docker build -t {reference} DIRECTORY"
            ) from None

    async def python_base(self, version: str = "") -> tuple[str, str]:
        """(name, ID) of a base with a Python that suits a version or a PEP 440 specifier. Raises BuildError."""
        return await self.bases.python(version)

    async def node_base(self, version: str = "") -> tuple[str, str]:
        """(name, ID) of a base with a Node that suits a version or a range of npm's. Raises BuildError."""
        return await self.bases.node(version)

    async def make(self, wanted: Recipe) -> ImageInfo:
        """The image of a recipe, built if the engine does not have it. Raises BuildError."""
        async with self.locks[wanted.reference]:
            found = await self.engine.image(wanted.reference) or await self.built(wanted)
        if found is None:
            raise BuildError(f"The image {wanted.reference} is missing after it was built.")
        return found

    async def built(self, wanted: Recipe) -> ImageInfo | None:
        """The image as this gateway builds it, or as another one of this user has just built it."""
        async with turn(self.folder and self.folder.parent, wanted.reference.partition(":")[0]):
            if await self.engine.image(wanted.reference) is None:
                await self.build(wanted)
            return await self.engine.image(wanted.reference)

    async def build(self, wanted: Recipe) -> None:
        """Builds it, and removes the stages that had the host's settings."""
        async with self.builds:
            self.say(f"Building {wanted.reference} ({wanted.subject})")
            await self.build_clean(wanted)

    async def build_clean(self, wanted: Recipe) -> None:
        """One build and its cleanup."""
        stage = secrets.token_hex(8)
        context = wanted.context(await asyncio.to_thread(self.settings), stage)
        try:
            await self.engine.build(context, wanted.reference, lambda line: logger.debug("build: %s", line))
        except BuildError as error:
            raise BuildError(explain_failure(wanted.subject, str(error))) from None
        finally:
            await tidy_stages(self.engine, f"{recipes.STAGE_LABEL}={stage}")


def made_from(source: PackageSource) -> str:
    """What an image is made from, as a key: the package without how it is run."""
    return repr(replace(source, args=(), env={}, mounts=(), user=None))


def egress_source() -> Mapping[str, bytes]:
    """The source in the egress image: package `egress`, and of `observability` events, their JSON and attribute names."""
    source = dict(python_files(files("egress"), "egress"))
    for name in ("__init__.py", "event_json.py", "events.py", "semconv.py"):
        source[f"observability/{name}"] = files("observability").joinpath(name).read_bytes()
    return source


def python_files(directory: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    """Every Python file below a package."""
    found: list[tuple[str, bytes]] = []
    for entry in sorted(directory.iterdir(), key=lambda e: e.name):
        path = f"{prefix}/{entry.name}"
        if entry.is_dir() and entry.name != "__pycache__":
            found += python_files(entry, path)
        elif entry.name.endswith(".py"):
            found.append((path, entry.read_bytes()))
    return found
