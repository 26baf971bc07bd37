"""Keys of an entry that do not apply to what its command turned out to be: ignoring one would mislead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from registry.model.errors import Finding
from registry.model.server import Server
from registry.model.sources import ImageSource, LocalSource, PackageSource, ProjectSource

MOUNT: Final = "Remove it; a folder that the server needs is shown to it by mounts: [FOLDER:FOLDER:ro]"


def misplaced(server: Server, source: LocalSource) -> Iterator[Finding]:
    """Each key in the wrong place, with what to do."""
    given = server.model_fields_set
    what = named(source)
    if not isinstance(source, ProjectSource):
        if server.cwd:
            yield Finding(("cwd",), f"is for a program of this machine, and this is {what}", MOUNT)
        if "source" in given:
            message = f"is for a program of this machine, and this is {what}, which has no source here"
            yield Finding(("source",), message, "Remove it")
        if "watch" in given:
            message = f"is for a program of this machine, and this is {what}, which has no folder here to watch"
            yield Finding(("watch",), message, "Remove it")
    runs = runtime(source)
    for key, other in (("python", "Python"), ("node", "Node")):
        if key in given and getattr(server, key) and key != runs:
            own = f"Remove it, or write {runs}: with the version" if runs in ("python", "node") else "Remove it"
            yield Finding((key,), f"is for a server in {other}, and this is {what}", own)
    if isinstance(source, ImageSource):
        message = f"is for packages and programs of this machine, and this is {what}"
        if server.packages:
            yield Finding(("packages",), message, "Add them to the image")
        if "build" in given:
            yield Finding(("build",), message, "Remove it")


def named(source: LocalSource) -> str:
    if isinstance(source, PackageSource):
        return "a package of PyPI" if source.kind == "uvx" else "a package of npm"
    if isinstance(source, ProjectSource):
        return f"a program in {source.language.capitalize()}"
    return "an image"


def runtime(source: LocalSource) -> str:
    """The key of its runtime's version; empty for an image, and where there is none."""
    if isinstance(source, PackageSource):
        return "python" if source.kind == "uvx" else "node"
    return source.language if isinstance(source, ProjectSource) else ""
