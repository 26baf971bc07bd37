"""Which files of a project the step sees that has this machine's credentials for registries. Pure.

Code of the project that ran there could read these credentials. So that step gets manifests
and locks alone, without what a tool runs as it reads them, and what only a build backend could tell is refused.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.runtime.images.projects.layout import Declares, Layout, ProjectError, Tree

PYPROJECT: Final = "pyproject.toml"
CODE: Final = frozenset({"setup.py", "setup.cfg", "MANIFEST.in", ".pnpmfile.cjs", ".pnpmfile.mjs"})
"""What tools run, or what tells them what to run."""
SETTINGS: Final = frozenset({PYPROJECT, "uv.toml"})
BUILT: Final = ("name", "version", "dependencies", "optional-dependencies", "requires-python")
"""Of `project`: what uv asks the build backend for where it is dynamic."""
JOINED: Final = re.compile(r"\\\r?\n")
REQUIREMENT: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*\s*(?:\[[^\]/]*\]\s*)?(?:$|[;#<>=!~(]|--hash|@\s*https?://)"
)
OPTION: Final = re.compile(
    r"--(?:index-url|extra-index-url|pre|no-index|trusted-host|only-binary|prefer-binary)\b|-i\s"
)
NAMED: Final = re.compile(r"(?:-r|--requirement|-c|--constraint)[ =]?\s*([^\s#]+)\s*(?:#.*)?")
REFUSED: Final = re.compile(r"(?:^|\s)(?:-e|--editable)|\$")
"""Also `${VARIABLE}`, for which uv puts what the environment has."""
CREDENTIALS: Final = (
    "set STOCKADE_BUILD_CREDENTIALS=visible for the gateway, which lets the project's code read these credentials."
)


def download_tree(layout: Layout) -> Tree:
    """The files of that step. Raises ProjectError for what cannot be downloaded without code of the project."""
    files = {path: text for path, text in layout.declared.items() if posixpath.basename(path) not in CODE}
    if layout.declares is Declares.REQUIREMENTS:
        files = {path: requirements_alone(path, files) for path in files}
    elif layout.declares is Declares.PYPROJECT:
        for path, text in files.items():
            if posixpath.basename(path) == PYPROJECT:
                refuse_dynamic(layout.root, path, text, files)
    return Tree(path=layout.root, files=files)


def requirements_alone(path: str, files: Mapping[str, bytes]) -> bytes:
    """A file with requirements, without those that lie in a folder: uv builds what is editable, whatever else it is told.

    What has settings of uv stays, for the indexes in it; no other file is let name it.
    """
    if path in SETTINGS:
        return files[path]
    lines = JOINED.sub(" ", files[path].decode(errors="replace")).splitlines()
    return "".join(f"{line}\n" for line in kept(path, lines, files)).encode()


def kept(path: str, lines: list[str], files: Mapping[str, bytes]) -> Iterator[str]:
    """The lines that name packages of an index, or further files of these."""
    for line in map(str.strip, lines):
        if match := NAMED.fullmatch(line):
            other = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[1]))
            if other in files and other not in SETTINGS:
                yield line
        elif (REQUIREMENT.match(line) or OPTION.match(line)) and not REFUSED.search(line):
            yield line


def refuse_dynamic(root: str, path: str, text: bytes, files: Mapping[str, bytes]) -> None:
    """Raises ProjectError where a project without a lock must be built to be resolved."""
    try:
        found = tomllib.loads(text.decode(errors="replace"))
    except tomllib.TOMLDecodeError as error:
        raise ProjectError(f"{root}/{path} is not valid TOML: {error}. Correct it.") from None
    project = found.get("project")
    said = project.get("dynamic") if isinstance(project, dict) else None
    dynamic = [name for name in BUILT if isinstance(said, list) and name in said]
    folders = [folder for folder in path_sources(found) if f"{beside(path, folder)}{PYPROJECT}" not in files]
    if not dynamic and not folders:
        return
    why = f"its {dynamic[0]} is dynamic" if dynamic else f"it takes a package from {folders[0]}"
    raise ProjectError(
        f"{root} has no lock, and of {root}/{path}, {why}: to resolve it, code of the project would run where this "
        f"machine's credentials for package registries are. Run `uv lock` in {root}, or {CREDENTIALS}"
    )


def path_sources(pyproject: Mapping[str, Any]) -> Iterator[str]:
    """The folders that `tool.uv.sources` names."""
    tool = pyproject.get("tool")
    uv = tool.get("uv") if isinstance(tool, dict) else None
    sources = uv.get("sources") if isinstance(uv, dict) else None
    for entry in sources.values() if isinstance(sources, dict) else ():
        for one in entry if isinstance(entry, list) else (entry,):
            if isinstance(one, dict) and "path" in one:
                yield str(one["path"])


def beside(path: str, folder: str) -> str:
    """A folder that a file names, as the beginning of the paths in it."""
    found = posixpath.normpath(posixpath.join(posixpath.dirname(path), folder))
    return "" if found == "." else f"{found}/"
