"""Looks at a project on the disk: where it begins, what it declares, and what is run. Bounded; nothing of it is executed."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from typing import Final

from gateway.runtime.images.projects.disk import (
    base_of,
    below,
    is_inside,
    require_folder,
    require_no_way_out,
    require_plain,
)
from gateway.runtime.images.projects.layout import Layout, ProjectError
from gateway.runtime.images.projects.node_projects import build_hint, node_layout, node_root
from gateway.runtime.images.projects.python_projects import python_layout, python_root
from registry.model.sources import HOME, ProjectSource

SUFFIXES: Final = {"node": ("", ".js", ".cjs", ".json"), "bun": ("", ".js", ".ts", ".tsx", ".mjs"), "python": ("",)}
INSTALLED: Final = (".venv", "venv", "node_modules")


def find_project(source: ProjectSource) -> Layout:
    """What there is to run for a source. Raises ProjectError with the path and the next step."""
    if source.language == "deno":
        raise ProjectError(
            "A program of Deno cannot be built into an image yet. Give it as an `image:`, or run it with Node or Bun."
        )
    if source.standalone and source.folder == HOME:  # no folder of this machine: what is installed is all there is
        return python_layout(source, "", "") if source.language == "python" else node_layout(source, "", "")
    require_plain(source.folder)
    file = os.path.normpath(os.path.join(source.folder, source.name)) if source.how == "file" else ""
    root = root_of(source, file)
    if file:
        require_file(source, root, file)
    require_folder(source.folder)
    if source.language == "python":
        found = python_layout(source, root, file)
    else:
        found = node_layout(source, root, file)
    if not is_inside(found.root, source.folder):
        found = replace(found, elsewhere=(source.folder,))
    if file:
        require_plain(file)
        found = with_file(found, file)
    return replace(found, hidden=installed_here(found, source))


def root_of(source: ProjectSource, file: str) -> str:
    """The project's folder: of the working directory, else of the file; empty where there is none."""
    search = python_root if source.language == "python" else node_root
    at_file = os.path.dirname(file) if file else ""
    if source.standalone:
        return ""
    if not file or is_inside(source.folder, file):
        return search(at_file or source.folder) if source.language != "python" else search(source.folder)
    root = search(source.folder)
    return root if root and (source.language == "python" or is_inside(root, file)) else search(at_file)


def require_file(source: ProjectSource, root: str, file: str) -> None:
    """Raises ProjectError where the file that is run is not there, or leads elsewhere."""
    there = [file + suffix for suffix in SUFFIXES[source.language] if os.path.exists(file + suffix)]
    if not there:
        hint = build_hint(root, file) if source.language != "python" else ""
        raise ProjectError(f"{file} does not exist. {hint or 'Correct the path in the entry of the server.'}")
    require_no_way_out(base_of(root, file), there[0])


def with_file(found: Layout, file: str) -> Layout:
    """With the file that is run, in the project or elsewhere."""
    if path := below(found.root, file):
        return replace(found, started=tuple(dict.fromkeys((*found.started, path))))
    folder = os.path.dirname(file)
    covered = any(is_inside(other, folder) for other in found.elsewhere)
    return found if covered else replace(found, elsewhere=(*found.elsewhere, folder))


def installed_here(found: Layout, source: ProjectSource) -> tuple[str, ...]:
    """Folders with what is installed on this machine: in the project's, in those down to the working directory, and in
    its members'."""
    folders = dict.fromkeys((found.root, *(f"{found.root}/{path}" for path in found.links.values())))
    at = source.folder
    while is_inside(found.root, at) and at != found.root:
        folders[at] = None
        at = os.path.dirname(at)
    paths = (f"{folder}/{name}" for folder in folders for name in INSTALLED)
    return tuple(path for path in paths if is_installation(path))


def is_installation(path: str) -> bool:
    """Whether a folder holds what a tool has installed; not a link, behind which anything may be."""
    if os.path.islink(path) or not os.path.isdir(path):
        return False
    return path.endswith("/node_modules") or os.path.isfile(f"{path}/pyvenv.cfg")


def require_readable(source: ProjectSource, found: Layout) -> None:
    """Raises ProjectError where the server, which runs as a user of its own, could not read what is mounted for it."""
    if source.copied or source.user:
        return
    paths = [found.root, *found.elsewhere]
    for path in found.started:
        parts = path.split("/")
        paths += [f"{found.root}/{'/'.join(parts[:end])}" for end in range(1, len(parts) + 1)]
    for path in paths:
        mode = os.stat(path).st_mode
        wanted = 0o005 if stat.S_ISDIR(mode) else 0o004
        if mode & wanted != wanted:
            owner = os.stat(path).st_uid
            own = "" if owner == 0 else f', run it as its owner (user: "{owner}")'
            raise ProjectError(
                f"{path} can be read by its owner only, and the server runs as a user of its own. Let others read it "
                f"(chmod -R o+rX {found.root}){own}, or have the source copied into the image (source: copy)."
            )
