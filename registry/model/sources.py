"""What there is to run for a server's entry: a package, a project of this machine, an image, or a remote server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from registry.model.mounts import Mount
from registry.model.server import RemoteAuth

HOME: Final = "/home/stockade"
"""Of servers that uvx and npx run, in their containers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSource:
    """A package of PyPI or npm, run by its command in an image that is built for it."""

    kind: Literal["uvx", "npx"]
    package: str
    """Its name, without version and extras: `mcp-server-fetch`, `@scope/name`; or the `git+https://…` URL."""
    version: str
    """A version (`1.2.3`, `>=1,<2`, npm also `^1.2` and tags), or empty for the newest."""
    executable: str
    """The command to run; empty = the only command of the package (npm)."""
    args: tuple[str, ...] = ()
    requirement: str
    """What to give to `uv tool install` or `npm install`: name, extras and version in that tool's own spelling."""
    extra_requirements: tuple[str, ...] = ()
    """More packages to install beside it (`uvx --with`, further `npx -p`)."""
    runtime_version: str = ""
    """The version of Python or Node that was asked for, such as 3.12 or 22; empty = what the package declares."""
    system_packages: tuple[str, ...] = ()
    """Debian packages to add to the image."""
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    user: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectSource:
    """A program of this machine's disk, run in an image that is made of what its project declares.

    The project's root, its lock file and what it declares are found by the runtime, which reads the disk: nothing here has.
    """

    language: Literal["python", "node", "bun", "deno"]
    folder: str
    """Absolute: the working directory, inside as outside. The project is looked for here and in the folders above."""
    how: Literal["file", "module", "command", "script"]
    """What `name` is: a file (`python FILE`); a module (`python -m`); a command that the project or one of `requirements`
    installs (`uv run NAME`, `npx tsx`); an entry of package.json's `scripts` or deno.json's `tasks` (`npm run NAME`)."""
    name: str
    """A file is absolute, or relative to `folder`."""
    runtime_args: tuple[str, ...] = ()
    """The runtime's own options, before the name: `python -u`, `node --enable-source-maps`, `deno run --allow-net`."""
    args: tuple[str, ...] = ()
    """The program's arguments."""
    requirements: tuple[str, ...] = ()
    """More packages to install beside the project's (`uv run --with`, `npx -p`)."""
    options: tuple[str, ...] = ()
    """Of `uv run`: which of the project's dependencies are wanted (`--extra NAME`, `--group NAME`, `--all-extras`, …)."""
    runtime_version: str = ""
    """The version of the language that was asked for, such as 3.12; empty = what the project declares."""
    interpreter: str = ""
    """The Python of a virtual environment that the command named, absolute: what is installed in it counts where the project
    declares nothing."""
    standalone: bool = False
    """No project is looked for (`uv run --no-project`): what the file itself declares (PEP 723) and `requirements`."""
    copied: bool = False
    """True: the source is copied into the image; else its folder is mounted, read-only."""
    system_packages: tuple[str, ...] = ()
    """Debian packages to add to the image."""
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    user: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """A container image."""

    image: str
    command: tuple[str, ...] = ()
    """Arguments for the image's program (its CMD); empty = the image's own."""
    args: tuple[str, ...] = ()
    """The same as `command`."""
    entrypoint: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    """All variables: the entry's and those of `docker run -e`."""
    mounts: tuple[Mount, ...] = ()
    user: str | None = None
    workdir: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSource:
    """A server that runs elsewhere."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    auth: RemoteAuth | None = None


LocalSource: TypeAlias = PackageSource | ProjectSource | ImageSource
"""What runs in a container."""
Source: TypeAlias = LocalSource | RemoteSource
