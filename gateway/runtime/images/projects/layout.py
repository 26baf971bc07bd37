"""What was found of a project on the disk: values only. `finder` reads them, `recipe` makes an image of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from gateway.runtime.sandbox.errors import PlanError


class ProjectError(PlanError):
    """Raised when a project cannot be run as it lies on the disk; the message has the path and the next step."""


class Declares(StrEnum):
    """Where a project says what it needs."""

    NOTHING = "nothing"
    SCRIPT = "the comment at the top of the file (PEP 723)"
    INSTALLED = "what is installed in the virtual environment"
    UV_LOCK = "uv.lock"
    POETRY_LOCK = "poetry.lock"
    PDM_LOCK = "pdm.lock"
    REQUIREMENTS = "requirements.txt"
    PYPROJECT = "pyproject.toml"
    SETUP = "setup.py"
    NPM_LOCK = "package-lock.json"
    PNPM_LOCK = "pnpm-lock.yaml"
    YARN_LOCK = "yarn.lock"
    YARN_MODERN_LOCK = "yarn.lock of Yarn 2 or newer"
    BUN_LOCK = "bun.lock"
    PACKAGE_JSON = "package.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Files of a project, as its installation sees them."""

    path: str
    """The folder's path, inside as outside."""
    files: Mapping[str, bytes] = field(repr=False)
    """Path below the folder -> content."""
    programs: frozenset[str] = frozenset()
    """Those that may be executed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One project: its folder, what it declares, and what is run."""

    root: str
    """The folder that is mounted, or copied: absolute, as it was named."""
    language: str
    """`python`, `node` or `bun`."""
    declares: Declares
    declared: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Manifests and lock, by their path below `root`: all that an installation sees unless `wants_source`."""
    wants_source: bool = False
    """Whether the project itself, or a package in its folder, is installed besides what it needs."""
    requirements: tuple[str, ...] = ()
    """What is installed besides what is declared, or instead of it where that is `INSTALLED`."""
    member: str = ""
    """Of a workspace: the name of the package in it that is run."""
    links: Mapping[str, str] = field(default_factory=dict)
    """Of Node: name of a package -> its folder below `root`, where it is a part of the project."""
    start: tuple[str, ...]
    """The whole command that runs it, before its arguments."""
    started: tuple[str, ...] = ()
    """Paths below `root` that this command names; they are copied even if Git is to ignore them."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What the project's tool sets for what it runs."""
    runtime: str = ""
    """The version of the language that the project declares: `>=3.11`, `22`; empty = any."""
    elsewhere: tuple[str, ...] = ()
    """Folders outside of `root` that are mounted too: of a file that is run, and lies there."""
    hidden: tuple[str, ...] = ()
    """Absolute paths of folders below `root` with what is installed on this machine, which may not run in a container."""
    name: str = ""
    version: str = ""

    @property
    def subject(self) -> str:
        """What an image of it is for, in words."""
        return f"project {self.root}"
