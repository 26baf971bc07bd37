"""Finds what a Python project declares: by its lock, its manifest, the file itself, or what is installed beside it."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from gateway.runtime.images.projects.disk import (
    base_of,
    below,
    climb,
    found_by,
    is_folder,
    is_inside,
    leads_out,
    table,
    text,
    toml,
    toml_text,
    words,
)
from gateway.runtime.images.projects.files import declared_file, reading_of, walk
from gateway.runtime.images.projects.layout import Declares, Layout, ProjectError
from gateway.runtime.images.projects.pins import FILE, constraints, wanted
from registry.model.sources import ProjectSource

LOCKS: Final = {
    "uv.lock": Declares.UV_LOCK,
    "poetry.lock": Declares.POETRY_LOCK,
    "pdm.lock": Declares.PDM_LOCK,
}
MANIFESTS: Final = (*LOCKS, "pyproject.toml", "requirements.txt", "setup.py")
PROSE: Final = ("README.md", "README.rst", "README", "LICENSE")
BUILDING: Final = (
    "pyproject.toml",
    "setup.py",
    "setup.cfg",
    "MANIFEST.in",
    *PROSE,
)
"""Files beside a manifest that a build backend asks for."""
SCRIPT: Final = re.compile(r"(?m)^# /// script\s*$\s(?P<content>(?:^#(?:| .*)$\s)+?)^# ///\s*$")
INCLUDED: Final = re.compile(r"(?m)^\s*(?:-r|--requirement|-c|--constraint)[ =]?\s*(\S+)")
LOCAL: Final = re.compile(
    r"(?m)^\s*(?:-e\s*|--editable[ =]\s*)?(?:file:)?(\.{1,2}(?:/[^\s;#\[]*)?)(?:\[[^\]]*\])?\s*(?:[;#].*)?$"
)
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_-]*")
STATE: Final = ".stockade-packages"
"""What the hash of packages in the project's folders is declared as."""
MOST_INCLUDED: Final = 50
MOST_INSTALLED: Final = 2000
INSTALLERS: Final = frozenset({"pip", "uv", "wheel"})
VENV: Final = "/opt/stockade/venv/bin"


def python_layout(source: ProjectSource, root: str, file: str) -> Layout:
    """What there is for a Python program. `root` is empty where no project was found, `file` where none is run.

    Raises ProjectError.
    """
    start = python_start(source, file)
    empty = Layout(root=root or source.folder, language="python", declares=Declares.NOTHING, start=start)
    base = base_of(root, file)
    script = script_block(text(base, below(base, file))) if file else None
    if script is not None:
        return of_script(empty, file, script, source)
    found = empty if source.standalone or not root else declared_in(empty, source)
    if found.declares is Declares.NOTHING and source.interpreter:
        found = of_interpreter(found, source.interpreter)
    return replace(found, requirements=(*found.requirements, *source.requirements))


def python_start(source: ProjectSource, file: str) -> tuple[str, ...]:
    """The command."""
    python = (f"{VENV}/python", *source.runtime_args)
    if source.how == "file":
        return (*python, file)
    if source.how == "module":
        return (*python, "-m", source.name)
    return (f"{VENV}/{source.name}",)


def python_root(folder: str) -> str:
    """The project at or above a folder: the nearest with a manifest, or the workspace that it is a member of; empty where
    there is none."""
    above = list(climb(folder))
    nearest = next((at for at in above if any(os.path.isfile(f"{at}/{name}") for name in MANIFESTS)), "")
    for at in above[above.index(nearest) + 1 :] if nearest else ():
        workspace = table(toml(at, "pyproject.toml"), "tool", "uv", "workspace")
        if workspace and nearest in members_of(at, workspace):
            return at
    return nearest


def members_of(root: str, workspace: Mapping[str, Any]) -> list[str]:
    """The folders of a workspace's members."""
    found: dict[str, None] = {}
    excluded = set(found_by(root, words(workspace.get("exclude"))))
    for path in found_by(root, words(workspace.get("members"))):
        if path not in excluded and os.path.isfile(f"{path}/pyproject.toml"):
            found[path] = None
    return list(found)[:MOST_INCLUDED]


# -- what is declared


def declared_in(empty: Layout, source: ProjectSource) -> Layout:
    """By the lock, else by the manifest. Raises ProjectError."""
    root = empty.root
    pyproject = toml(root, "pyproject.toml")
    project = table(pyproject, "project")
    poetry = table(pyproject, "tool", "poetry")
    workspace = table(pyproject, "tool", "uv", "workspace")
    members = members_of(root, workspace) if workspace else []
    member = next((at for at in members if is_inside(at, source.folder)), "")
    own = toml(root, f"{below(root, member)}/pyproject.toml") if member else pyproject
    found = replace(
        empty,
        declared=manifests(root, members),
        member=str(table(own, "project").get("name") or "") if member else "",
        runtime=str(table(own, "project").get("requires-python") or project.get("requires-python") or ""),
        name=str(project.get("name") or poetry.get("name") or ""),
        version=str(project.get("version") or poetry.get("version") or ""),
        wants_source=is_package(own)
        or any(is_package(toml(root, f"{below(root, at)}/pyproject.toml")) for at in members),
    )
    found = with_state(found, (one for folder in (root, *members) for one in sources_of(root, folder)))
    if not found.runtime and (pinned := text(root, ".python-version").strip()):
        found = replace(found, runtime=pinned.splitlines()[0])
    for name, declares in LOCKS.items():
        if name in found.declared:
            if declares is Declares.UV_LOCK:
                refuse_paths_outside(root, found.declared[name])
                return replace(found, declares=declares)
            lock = found.declared[name]
            toml_text(lock.decode(errors="replace"), f"{root}/{name}", "Write it again with the tool that made it.")
            lines = constraints(lock, f"{root}/{name}")
            return replace(
                found,
                declares=declares,
                declared={**found.declared, FILE: lines},
                requirements=wanted(pyproject, project.get("dependencies")),
            )
    return without_lock(found, pyproject)


def without_lock(found: Layout, pyproject: Mapping[str, Any]) -> Layout:
    """A project with no lock of the usual tools."""
    root = found.root
    if project := table(pyproject, "project"):
        if project.get("dependencies") or "dependencies" not in words(project.get("dynamic")):
            only = project.get("dependencies") is None and "requirements.txt" in found.declared
            if not only:
                return replace(found, declares=Declares.PYPROJECT)
    if "requirements.txt" in found.declared:
        files = included(root, "requirements.txt")
        local = list(local_lines(root, files))
        source = found.wants_source and found.start[0] != f"{VENV}/python"
        found = replace(
            found,
            declares=Declares.REQUIREMENTS,
            declared={**found.declared, **files},
            wants_source=source or bool(local),
        )
        return with_state(found, local)
    if os.path.isfile(f"{root}/setup.py") or is_package(pyproject):
        return replace(found, declares=Declares.SETUP, wants_source=True)
    if table(pyproject, "tool", "poetry", "dependencies"):
        raise ProjectError(
            f"{root}/pyproject.toml has dependencies for Poetry, and no lock. Run `poetry lock` in {root}."
        )
    return found


def is_package(pyproject: Mapping[str, Any]) -> bool:
    """Whether a project is itself installed: where it says how it is built, unless it says that it is none."""
    said = table(pyproject, "tool", "uv").get("package", table(pyproject, "tool", "poetry").get("package-mode"))
    return bool(said) if isinstance(said, bool) else "build-system" in pyproject


def manifests(root: str, members: list[str]) -> dict[str, bytes]:
    """What tools read of a project before they look at its source. Raises ProjectError for a link out of the project."""
    names = [*LOCKS, "requirements.txt", "uv.toml", *BUILDING]
    names += [f"{below(root, folder)}/{name}" for folder in members for name in BUILDING]
    found = {}
    for name in names:
        if os.path.basename(name) in PROSE and leads_out(root, name):
            continue  # often one for several projects of a repository; none is needed
        if (content := declared_file(root, name)) is not None:
            found[name] = content
    return found


def included(root: str, first: str) -> dict[str, bytes]:
    """A file with requirements and those that it names, by their paths from `root` on. Raises ProjectError for one that is
    not in the folder."""
    found: dict[str, bytes] = {}
    waiting = [first]
    while waiting and len(found) < MOST_INCLUDED:
        name = waiting.pop()
        path = below(root, os.path.normpath(os.path.join(root, name)))
        content = declared_file(root, path) if path else None
        if content is None:
            raise ProjectError(f"{root}/{first} names {name}, which is not in {root}. Put it there, or leave it out.")
        found[path] = content
        for other in INCLUDED.findall(content.decode(errors="replace")):
            wanted = os.path.join(os.path.dirname(path), other)
            if not other.startswith(("http://", "https://")) and os.path.normpath(wanted) not in found:
                waiting.append(wanted)
    return found


# -- packages in folders of the project, of which a copy is installed


def local_lines(root: str, files: Mapping[str, bytes]) -> Iterator[tuple[str, bool]]:
    """Path, and whether it is installed editable, of what requirements name by its path: from `root`, or from their file."""
    for name, content in files.items():
        for match in LOCAL.finditer(content.decode(errors="replace")):
            for folder in {root, os.path.dirname(f"{root}/{name}")}:
                yield os.path.normpath(os.path.join(folder, match[1])), match[0].lstrip().startswith("-")


def sources_of(root: str, folder: str) -> Iterator[tuple[str, bool]]:
    """The same of what the manifest in a folder of the project has for uv."""
    manifest = toml(root, f"{below(root, folder)}/pyproject.toml".lstrip("/"))
    for said in table(manifest, "tool", "uv", "sources").values():
        for one in said if isinstance(said, list) else [said]:
            path = one.get("path") if isinstance(one, dict) else None
            if isinstance(path, str) and "\0" not in path:
                yield os.path.normpath(os.path.join(folder, path)), one.get("editable") is True


def with_state(found: Layout, packages: Iterable[tuple[str, bool]]) -> Layout:
    """With a hash of such packages' files among what is declared, so that an edit of them makes another image. Of what is
    installed editable that holds for its manifest alone. Raises ProjectError."""
    root = found.root
    reading = reading_of(found)
    for path, editable in sorted(set(packages)):
        name = below(root, path)
        if not name:  # the project itself, which is mounted; or elsewhere, where an installation does not find it
            continue
        if not is_folder(root, path):
            names: Iterable[str] = [name]
        elif editable:
            names = [f"{name}/{inner}" for inner in BUILDING if inner not in PROSE]
        else:
            names = walk(reading, name)
        for inner in names:
            reading.add(inner)
    if not reading.files:
        return found
    digest = hashlib.sha256(found.declared.get(STATE, b""))
    for name, content in sorted(reading.files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode(errors="surrogateescape") + content)
    return replace(found, declared={**found.declared, STATE: digest.hexdigest().encode()})


def refuse_paths_outside(root: str, lock: bytes) -> None:
    """Raises ProjectError where a lock names a package in a folder that the image cannot have."""
    locked = toml_text(lock.decode(errors="replace"), f"{root}/uv.lock", f"Run `uv lock` in {root}.")
    packages = locked.get("package")
    for package in packages if isinstance(packages, list) else ():
        source = package.get("source") if isinstance(package, dict) else None
        for key in ("editable", "directory", "virtual", "path"):
            path = source.get(key) if isinstance(source, dict) else None
            if isinstance(path, str) and not is_inside(root, os.path.normpath(os.path.join(root, path))):
                raise ProjectError(
                    f"{root}/uv.lock takes {package.get('name')} from {path}, a folder outside of {root}. Make both a uv "
                    f"workspace (https://docs.astral.sh/uv/concepts/projects/workspaces/), or build an image: build: {root}"
                )


# -- a file of its own


def script_block(written: str) -> dict[str, Any] | None:
    """What a file declares about itself (PEP 723); None where it declares nothing."""
    match = SCRIPT.search(written)
    if match is None:
        return None
    lines = (line[2:] if line.startswith("# ") else line[1:] for line in match["content"].splitlines())
    try:
        return tomllib.loads("\n".join(lines))
    except (ValueError, RecursionError):
        return None


def of_script(empty: Layout, file: str, script: Mapping[str, Any], source: ProjectSource) -> Layout:
    """A file that declares what it needs. uv keeps its lock beside it."""
    name = os.path.basename(file)
    base = base_of(empty.root, file)
    path = below(base, file)
    declared = {name: without_code(text(base, path))}
    if (lock := declared_file(base, f"{path}.lock")) is not None:
        declared[f"{name}.lock"] = lock
    return replace(
        empty,
        declares=Declares.SCRIPT,
        declared=declared,
        requirements=source.requirements,
        runtime=str(script.get("requires-python") or ""),
        name=name.removesuffix(".py"),
    )


def without_code(written: str) -> bytes:
    """Only what a file declares: an edit of its code builds nothing."""
    match = SCRIPT.search(written)
    return match[0].encode() + b"\n" if match else b""


# -- a virtual environment


def of_interpreter(empty: Layout, interpreter: str) -> Layout:
    """What is installed in a virtual environment, by its names and versions. Raises ProjectError where there is none."""
    venv = os.path.dirname(os.path.dirname(interpreter))
    if not os.path.isfile(f"{venv}/pyvenv.cfg"):
        raise ProjectError(
            f"{empty.root} declares no dependencies, and {interpreter} belongs to no virtual environment. Write a "
            f"requirements.txt (or a pyproject.toml) in {empty.root}."
        )
    installed = []
    for path in sorted(glob.glob(f"{glob.escape(venv)}/lib/python3*/site-packages/*.dist-info"))[:MOST_INSTALLED]:
        if (requirement := installed_as(empty.root, path)) and requirement not in installed:
            installed.append(requirement)
    match = re.search(r"(?m)^version(?:_info)?\s*=\s*(3\.\d+)", text(venv, "pyvenv.cfg"))
    return replace(
        empty, declares=Declares.INSTALLED, requirements=tuple(installed), runtime=match[1] if match else ""
    )


def installed_as(root: str, path: str) -> str:
    """A requirement for what one `.dist-info` folder says is installed; empty for what needs none. Raises ProjectError."""
    name, _, version = os.path.basename(path).removesuffix(".dist-info").partition("-")
    if not NAME.fullmatch(name) or not VERSION.fullmatch(version) or name in INSTALLERS:
        return ""
    try:
        direct = json.loads(text(path, "direct_url.json") or "{}")
    except (ValueError, RecursionError):
        direct = {}
    url = str(direct.get("url") or "") if isinstance(direct, dict) else ""
    if not url:
        return f"{name}=={version}"
    if url.startswith("file://"):
        if is_inside(root, url.removeprefix("file://")):
            return ""  # found by its path: nothing of it is declared
        raise ProjectError(
            f"{name} is installed from {url.removeprefix('file://')}, which the server does not see. Write what the "
            f"program needs into a requirements.txt in {root}."
        )
    vcs = table(direct, "vcs_info")
    commit = f"@{vcs.get('commit_id')}" if vcs.get("commit_id") else ""
    return f"{name} @ {vcs['vcs']}+{url}{commit}" if vcs.get("vcs") else f"{name} @ {url}"
