"""What of a project a server sees: its folder, read-only and at the same path as outside. What an entry mounts wins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gateway.runtime.images.projects.layout import Layout
from gateway.runtime.sandbox.errors import PlanError
from registry.model.errors import Invalid
from registry.model.mounts import Mount, covers, make_mount
from registry.model.sources import HOME, ProjectSource


def with_folders(source: ProjectSource, layout: Layout) -> ProjectSource:
    """The source with the mounts of its project. Raises PlanError for a folder that no server may see, copied or not."""
    added = []
    for folder in (layout.root, *layout.elsewhere):
        if folder == HOME or is_mounted_by_entry(source, folder):
            continue
        mount = folder_mount(folder)
        if not (source.copied and folder == layout.root):
            added.append(mount)
    return replace(source, mounts=(*added, *source.mounts))


def folder_mount(folder: str) -> Mount:
    """A folder at its own path. Raises PlanError with the next step."""
    try:
        return make_mount(folder, folder, True, base=Path("/"))
    except Invalid as error:
        finding = error.findings[0]
        raise PlanError(
            f"The folder of the program cannot be given to the server: {finding.message}. Put the program into a folder "
            f"of its own, such as one below your home. ({finding.hint}.)"
        ) from None


def hidden_folders(source: ProjectSource, layout: Layout) -> tuple[str, ...]:
    """What is mounted over with something empty: of the folders that are mounted for the project, not by the entry."""
    if source.copied or is_mounted_by_entry(source, layout.root):
        return ()
    return tuple(path for path in layout.hidden if not is_mounted_by_entry(source, path))


def is_mounted_by_entry(source: ProjectSource, folder: str) -> bool:
    """Whether the entry mounts that folder, or one above it."""
    return any(covers(mount.target, folder) for mount in source.mounts)
