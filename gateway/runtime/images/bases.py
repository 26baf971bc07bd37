"""The bases that servers' images begin with: one for each line of Python and of Node, shared by all servers.

Where a registry of images answers they are pulled; elsewhere Python's are made of Debian's packages, and Node's of PyPI's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from gateway.runtime.engine.base import Builder, ImageInfo
from gateway.runtime.images import lines, recipes
from gateway.runtime.images.build_errors import explain_failure
from gateway.runtime.images.recipes import Recipe
from gateway.runtime.sandbox.errors import BuildError, EngineError, EngineUnreachable

logger = logging.getLogger(__name__)

PULL_TIMEOUT_S: Final = 120
DEAF_S: Final = 300.0
"""How long no registry is asked for another base after one that could not be pulled."""
DEBOOTSTRAP_TIMEOUT_S: Final = 1200
DEBOOTSTRAP_SCRIPT: Final = Path("/usr/share/debootstrap/scripts/sid")
"""How a suite is made that is newer than the host's debootstrap: all of this decade's are made alike."""


KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
"""Where debootstrap looks for the keys of Debian."""


class NoSuchLine(BuildError):
    """Raised when no base has what was asked for; `str()` says what there is."""


async def cannot_make(wanted: Recipe) -> ImageInfo:
    """For those who only look."""
    raise BuildError(f"The image {wanted.reference} is not there, and is not made here.")


class Bases:
    """The bases of one engine. Each is made at most once at a time."""

    def __init__(
        self,
        engine: Builder,
        make: Callable[[Recipe], Awaitable[ImageInfo]] = cannot_make,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.engine = engine
        self.make = make
        """Builds what a recipe says, unless the engine has it."""
        self.say = say
        self.locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.deaf_until = 0.0
        """Until then (the loop's time) no registry is asked, since none answered."""

    async def python(self, version: str = "") -> tuple[str, str]:
        """(name, ID) of a base with a Python that suits a version (`3.13`) or a PEP 440 specifier, made if need be.

        Empty: the default. Where several suit it is the default one if that does. Raises BuildError, NoSuchLine.
        """
        default = await self.default_python()
        if not version:
            return default
        fitting = lines.suitable_python(version)
        if await self.line_of_python(default) in fitting:
            return default
        failed: BuildError | None = None
        for line in fitting:
            try:
                if found := await self.python_line(line):
                    return found
            except BuildError as error:  # another line may be had all the same
                failed = failed or error
        raise failed or NoSuchLine(
            f"No base image has Python {version}. There is Python {lines.listed(await self.python_lines())}: name one of "
            "them, or give an `image:` that has it."
        )

    async def node(self, version: str = "") -> tuple[str, str]:
        """(name, ID) of a base with a Node that suits a version (`22`) or a range of npm's, made if need be.

        Empty: the default. Where several suit it is the default one if that does. Raises BuildError, NoSuchLine.
        """
        default = await self.default_node_there()
        fitting = lines.suitable_node(version)
        if not version or (default and await self.line_of_node(default) in fitting):
            return default or await self.default_node()
        if default is None and fitting:
            default = await self.default_node()
            if await self.line_of_node(default) in fitting:
                return default
        for line in fitting:
            return await self.node_line(line)
        raise NoSuchLine(
            f"No base image has Node {version}. There is Node {lines.listed(lines.NODE_LINES)}: name one of them, or "
            "give an `image:` that has it."
        )

    async def line_of_python(self, base: tuple[str, str]) -> str:
        """The line of the default base: Docker's own images say it, Debian's suite is known."""
        said = await self.variable(base[0], "PYTHON_VERSION")
        return lines.line_of(said, 2) if said else lines.PYTHON_MADE

    async def line_of_node(self, base: tuple[str, str]) -> str:
        """The line of the default base."""
        said = await self.variable(base[0], "NODE_VERSION")
        return lines.line_of(said, 1) if said else lines.NODE_MADE

    async def variable(self, image: str, name: str) -> str:
        """A variable of an image; empty where it has none."""
        info = await self.engine.image(image)
        return dict(info.env).get(name, "") if info else ""

    async def python_lines(self) -> tuple[str, ...]:
        """The lines that can be had here."""
        default = await self.line_of_python(await self.default_python())
        pulls = default == lines.PYTHON_PULLED and not self.deaf()
        return tuple(
            [
                line
                for line in lines.PYTHON_LINES
                if pulls
                or line == default
                or line in lines.PYTHON_SUITES
                or await self.engine.image(python_tag(line))
            ]
        )

    async def made(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The lines of Python and of Node that have a base on the engine, the default first. Makes none."""
        default = await self.engine.image(recipes.python_base_tag())
        if default is None:
            return (), ()
        base = recipes.python_base_tag(), default.id
        pythons = [await self.line_of_python(base)]
        pythons += [line for line in lines.PYTHON_LINES if await self.engine.image(python_tag(line))]
        node = await self.default_node_there()
        nodes = [await self.line_of_node(node)] if node else []
        for line in lines.NODE_LINES:
            tags = (node_tag(line), recipes.node_base(*base, line).reference)
            nodes += [line for tag in tags if await self.engine.image(tag)]
        return tuple(dict.fromkeys(pythons)), tuple(dict.fromkeys(nodes))

    async def default_python(self) -> tuple[str, str]:
        """(name, ID) of the Python base that is taken where nothing else is asked for."""
        tag = recipes.python_base_tag()
        found = await self.base(tag, recipes.PULLED["python"], recipes.DEBIAN_SUITE)
        if found is None:
            raise BuildError(f"The base image {tag} is missing after it was made.")
        return found

    async def python_line(self, line: str) -> tuple[str, str] | None:
        """(name, ID) of the base of a line; None where no registry answers and no suite of Debian has it."""
        return await self.base(python_tag(line), f"python:{line}-slim", lines.PYTHON_SUITES.get(line, ""))

    async def default_node_there(self) -> tuple[str, str] | None:
        """(name, ID) of the Node base that is taken where nothing else is asked for; None while it is not made."""
        pulled = recipes.node_pulled_tag()
        async with self.locks[pulled]:
            if found := await self.engine.image(pulled):
                return pulled, found.id
        made = recipes.node_base(*await self.default_python()).reference
        found = await self.engine.image(made)
        return (made, found.id) if found else None

    async def default_node(self) -> tuple[str, str]:
        """The same, made if need be: pulled where a registry answers, else built from the PyPI wheel."""
        return await self.default_node_there() or await self.node_made(
            recipes.node_pulled_tag(), recipes.PULLED["node"], recipes.node_base(*await self.default_python())
        )

    async def node_line(self, line: str) -> tuple[str, str]:
        """(name, ID) of the base of a line of Node."""
        pulled, wheel = node_tag(line), recipes.node_base(*await self.default_python(), line)
        for tag in (pulled, wheel.reference):
            if found := await self.engine.image(tag):
                return tag, found.id
        return await self.node_made(pulled, f"node:{line}-slim", wheel)

    async def node_made(self, pulled: str, upstream: str, wheel: Recipe) -> tuple[str, str]:
        """A Node base: pulled, else built."""
        async with self.locks[pulled]:
            if await self.pull_as(upstream, pulled) and (found := await self.engine.image(pulled)):
                return pulled, found.id
        return wheel.reference, (await self.make(wheel)).id

    async def base(self, tag: str, upstream: str, suite: str) -> tuple[str, str] | None:
        """A Python base: as it is, else pulled, else made of Debian's suite; None where there is none. Raises BuildError."""
        async with self.locks[tag]:
            found = await self.engine.image(tag)
            if found is None and not await self.pull_as(upstream, tag):
                if not suite:
                    return None
                await self.bootstrap(tag, upstream, suite)
            found = found or await self.engine.image(tag)
        return (tag, found.id) if found else None

    async def pull_as(self, upstream: str, tag: str) -> bool:
        """Pulls an image and gives it our name; False where no registry answers."""
        found = await self.engine.image(upstream)
        if found is None:
            if self.deaf():
                return False
            try:
                self.say(f"Pulling {upstream}")
                found = await self.engine.pull(upstream, PULL_TIMEOUT_S)
            except EngineUnreachable:
                raise
            except EngineError as error:
                logger.info("no registry: %s", error)
                self.deaf_until = asyncio.get_running_loop().time() + DEAF_S
                return False
        await self.engine.tag(found.id, tag)
        return True

    def deaf(self) -> bool:
        """Whether no registry answered a moment ago."""
        return asyncio.get_running_loop().time() < self.deaf_until

    async def bootstrap(self, tag: str, upstream: str, suite: str) -> None:
        """Makes a Python base from Debian packages. Raises BuildError, with what to do where it cannot."""
        if problem := bootstrap_problem(upstream):
            raise BuildError(problem)
        self.say(f"No registry answers: making {tag} with debootstrap (Debian {suite})")
        with tempfile.TemporaryDirectory(prefix="stockade-base-", dir="/var/tmp") as directory:
            tree, tarball = Path(directory) / "tree", Path(directory) / "tree.tar"
            await run(*debootstrap_command(suite, tree, debian_mirror(Path("/etc/apt"))))
            await asyncio.to_thread(slim, tree)
            await run("tar", "--numeric-owner", "-C", str(tree), "-cf", str(tarball), ".")
            await self.engine.import_tree(str(tarball), tag)


def python_tag(line: str) -> str:
    """The tag of the Python base of a line, pulled or made by debootstrap."""
    parts = (line, lines.PYTHON_SUITES.get(line, ""), *recipes.DEBIAN_PACKAGES)
    return recipes.content_tag("base-python", *parts, f"python:{line}-slim")


def node_tag(line: str) -> str:
    """The tag of a pulled Node base of a line."""
    return recipes.content_tag("base-node", f"node:{line}-slim")


def debootstrap_command(suite: str, tree: Path, mirror: str) -> list[str]:
    """debootstrap, which checks the suite's signature by the host's keyring. A suite new to it is made like `sid`."""
    include = ",".join(recipes.DEBIAN_PACKAGES)
    known = DEBOOTSTRAP_SCRIPT.with_name(suite).exists()
    script = [] if known else [str(DEBOOTSTRAP_SCRIPT)]
    return [
        "debootstrap",
        "--force-check-gpg",
        "--variant=minbase",
        f"--include={include}",
        suite,
        str(tree),
        mirror,
        *script,
    ]


def bootstrap_problem(upstream: str = recipes.PULLED["python"]) -> str:
    """Why debootstrap cannot run here, with the next step; empty when it can."""
    start = "No image registry answers, so the base image must be made from Debian packages"
    if shutil.which("debootstrap") is None:
        return f"{start}, and debootstrap is not installed. Run `sudo apt-get install debootstrap` and start again."
    if not KEYRING.exists():
        return (
            f"{start}, and Debian's keys to check them are not installed. Run `sudo apt-get install debian-archive-keyring` "
            "and start again."
        )
    if os.geteuid() != 0:
        command = "sudo stockade doctor" if upstream == recipes.PULLED["python"] else "sudo stockade up"
        return (
            f"{start}, which needs root. Run `{command}` once (it makes the image), or "
            f"`docker pull {upstream}` where a registry answers, and start again."
        )
    return ""


def debian_mirror(apt: Path) -> str:
    """The host's own Debian mirror, else the default one."""
    default = "http://deb.debian.org/debian"
    for path in [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]:
        try:
            words = path.read_text().split()
        except OSError:
            continue
        urls = [w for w in words if w.startswith(("http://", "https://")) and w.rstrip("/").endswith("/debian")]
        if urls:
            return urls[0]
    return default


def slim(tree: Path) -> None:
    """Removes what an image does not need."""
    for waste in (
        "var/cache/apt/archives",
        "var/lib/apt/lists",
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
    ):
        shutil.rmtree(tree / waste, ignore_errors=True)
    (tree / "var/lib/apt/lists").mkdir(parents=True, exist_ok=True)
    (tree / "var/cache/apt/archives/partial").mkdir(parents=True, exist_ok=True)


async def run(*command: str) -> None:
    """Runs a program to its end. Raises BuildError with its last lines."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(DEBOOTSTRAP_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise BuildError(f"{command[0]} did not end within {DEBOOTSTRAP_TIMEOUT_S} s.") from None
    if process.returncode != 0:
        raise BuildError(explain_failure(f"base ({command[0]})", output.decode(errors="replace")))
