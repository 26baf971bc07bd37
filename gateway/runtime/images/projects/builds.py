"""Makes the images of projects. What is installed for one is installed as a package is: see `package_builds`."""

from __future__ import annotations

import asyncio
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Literal

from gateway.runtime.images.browsers import has_browser
from gateway.runtime.images.build_errors import InstallFailed, explain_failure
from gateway.runtime.images.images import CREDENTIALS, Attempt, Images
from gateway.runtime.images.needs import Compiler
from gateway.runtime.images.package_builds import PackageBuild
from gateway.runtime.images.projects.downloads import download_tree
from gateway.runtime.images.projects.files import source_tree
from gateway.runtime.images.projects.layout import Layout, Tree
from gateway.runtime.images.projects.recipe import project_image, project_steps
from gateway.runtime.images.recipes import Recipe
from gateway.runtime.images.registries import allowed_hosts
from gateway.runtime.images.wall import NO_WALL, Wall
from gateway.runtime.sandbox.errors import BuildError
from registry.model.sources import PackageSource, ProjectSource

KINDS: Final[Mapping[str, Literal["uvx", "npx"]]] = {"python": "uvx", "node": "npx", "bun": "npx"}
"""What installs packages of a language."""


class Projects:
    """The images of projects on one engine."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.failed: dict[str, tuple[str, str]] = {}
        """What a project's image is made from -> the image whose build failed, and why."""
        self.locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def image(self, source: ProjectSource, layout: Layout, wall: Wall = NO_WALL) -> str:
        """The name of a project's image, made if need be. Raises BuildError, PlanError.

        One that failed is built again when something of it has changed, or after `try_again`.
        """
        tree = await asyncio.to_thread(source_tree, layout) if source.copied else declared_tree(layout)
        runtime, builder = await self.prepared(source, layout)
        wanted = project_image(source, layout, tree, runtime, builder)
        key = f"{made_from(source)} {wall.hosts}"
        async with self.locks[wanted.reference]:
            if await self.images.engine.image(wanted.reference) is not None:
                return wanted.reference
            reference, failure = self.failed.get(key, ("", ""))
            if reference == wanted.reference:
                raise BuildError(failure)
            try:
                await self.installed(source, layout, tree, wanted, builder, wall)
            except BuildError as error:
                self.failed[key] = wanted.reference, str(error)
                raise
        return wanted.reference

    async def installed(
        self, source: ProjectSource, layout: Layout, tree: Tree, wanted: Recipe, builder: str, wall: Wall
    ) -> None:
        """Makes the image, with a compiler where something calls one. Raises BuildError."""
        try:
            try:
                await self.install(source, layout, tree, wanted, builder, wall)
            except InstallFailed as failed:
                if not isinstance(failed.need, Compiler):
                    raise
                _, builder = await self.prepared(source, layout, compiler=True)
                await self.install(source, layout, tree, wanted, builder, wall)
        except InstallFailed as failed:
            raise BuildError(explain_failure(wanted.subject, str(failed), refused=failed.refused)) from None

    async def prepared(self, source: ProjectSource, layout: Layout, *, compiler: bool = False) -> tuple[str, str]:
        """The image that a project is to run on, and the one that it is installed in, made if need be."""
        attempt = Attempt(line=runtime_wanted(source, layout), compiler=compiler)
        return await self.images.prepared(packages_of(source, KINDS[layout.language]), attempt)

    def try_again(self, source: ProjectSource) -> None:
        """The next `image` of it builds even if the last one failed."""
        for key in [key for key in self.failed if key.startswith(f"{made_from(source)} ")]:
            del self.failed[key]

    async def install(
        self, source: ProjectSource, layout: Layout, tree: Tree, wanted: Recipe, builder: str, wall: Wall
    ) -> None:
        """Installs what a project needs and keeps the result as an image. Raises BuildError."""
        if layout.wants_source and not source.copied:
            tree = await asyncio.to_thread(source_tree, layout)
        settings = await asyncio.to_thread(self.images.settings)
        apart = KINDS[layout.language] in settings.wanted_by
        if apart and os.environ.get(CREDENTIALS) == "visible":
            settings, apart = settings.for_download, False
        async with self.images.installs:
            self.images.say(f"Building {wanted.reference} ({wanted.subject})")
            await PackageBuild(
                engine=self.images.engine,
                wanted=wanted,
                builder=builder,
                steps=project_steps(source, layout, credentials=apart),
                settings=settings,
                wall=wall,
                hosts=allowed_hosts(KINDS[layout.language], settings, source.requirements),
                timeout_s=self.images.timeout_s(),
                folder=self.images.folder,
                browser=has_browser(source.system_packages),
                project=tree,
                download=download_tree(layout) if apart else None,
            ).run()


def declared_tree(layout: Layout) -> Tree:
    """Manifests and lock alone."""
    return Tree(path=layout.root, files=layout.declared)


def runtime_wanted(source: ProjectSource, layout: Layout) -> str:
    """The version of the language that is asked for, else the one that is declared; empty = the default."""
    if layout.language == "bun":
        return ""
    said = source.runtime_version or layout.runtime
    return said if source.runtime_version or re.search(r"\d", said) else ""  # of Node also `lts/*`


def packages_of(source: ProjectSource, kind: Literal["uvx", "npx"]) -> PackageSource:
    """A package that needs the same Debian packages."""
    return PackageSource(
        kind=kind, package="", version="", executable="", requirement="", system_packages=source.system_packages
    )


def made_from(source: ProjectSource) -> str:
    """What an image is made from, as a key: the source without what only its container has."""
    return repr(replace(source, args=(), env={}, mounts=(), user=None))
