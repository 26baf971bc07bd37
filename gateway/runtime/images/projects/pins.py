"""From the locks of Poetry and PDM to what uv installs: requirements, and for each package its version and hashes. Pure."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.runtime.images.projects.layout import ProjectError

FILE: Final = ".stockade-constraints.txt"
"""What the installation finds them under, beside the manifest."""
HASH: Final = re.compile(r"sha(?:256|384|512):[0-9a-f]{32,128}")
NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_-]*")
WHERE: Final = re.compile(r"(?:https?|ssh|git)://[^\s\0$]+")
MARKER: Final = re.compile(r"[\w .<>=!~()'\"*+-]+")


def constraints(lock: bytes, path: str) -> bytes:
    """The lines of a constraints file. Raises ProjectError where the lock cannot be read, or names what lies elsewhere."""
    try:
        packages = tomllib.loads(lock.decode(errors="replace")).get("package")
    except tomllib.TOMLDecodeError as error:
        raise ProjectError(f"{path} is not valid TOML: {error}. Write it again with the tool that made it.") from None
    found: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for package in packages if isinstance(packages, list) else ():
        if isinstance(package, dict) and (line := pin(package)):
            found[str(package["name"])][line] = None
    lines = [line for name in found for line in all_that_hold(list(found[name]))]
    return "".join(f"{line}\n" for line in lines).encode()


def pin(package: Mapping[str, Any]) -> str:
    """The line for one package; empty for what has no version of an index, such as a folder."""
    name, version = package.get("name"), package.get("version")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        return ""
    source = package.get("source")
    kind = source.get("type") if isinstance(source, dict) else ""
    if kind in ("directory", "file", "url") or package.get("path"):
        return ""
    if isinstance(source, dict) and kind == "git":
        return repository(name, source.get("url"), source.get("resolved_reference"), marker(package))
    if package.get("git"):
        return repository(name, package["git"], package.get("revision"), marker(package))
    if not isinstance(version, str) or not VERSION.fullmatch(version):
        return ""
    hashes = "".join(f" --hash={digest}" for digest in digests(package.get("files")))
    return f"{name}=={version}{marker(package)}{hashes}"


def repository(name: str, url: Any, revision: Any, when: str) -> str:
    """The line for a package from a repository. Raises ProjectError for what could be more than one line, or is no URL."""
    where = f"{url}@{revision}"
    if not WHERE.fullmatch(where):
        raise ProjectError(
            f"The lock takes {name} from {where!r}, which is no URL of a repository. Name it by https:// or ssh://, and "
            "lock again."
        )
    return f"{name} @ git+{where}{when}"


def marker(package: Mapping[str, Any]) -> str:
    """When a package is wanted, as pip writes it."""
    said = package.get("markers", package.get("marker"))
    if isinstance(said, dict):  # by group
        said = said.get("main")
    return f" ; {said}" if isinstance(said, str) and MARKER.fullmatch(said) else ""


def digests(files: Any) -> Iterator[str]:
    """The hashes of a package's files."""
    for file in files if isinstance(files, list) else ():
        digest = file.get("hash") if isinstance(file, dict) else None
        if isinstance(digest, str) and HASH.fullmatch(digest):
            yield digest


def all_that_hold(lines: list[str]) -> list[str]:
    """Several versions of one package hold together only where each says when."""
    return lines if len(lines) == 1 or all(" ; " in line for line in lines) else []


def wanted(pyproject: Mapping[str, Any], dependencies: Any) -> tuple[str, ...]:
    """What a project asks for: `project.dependencies`, else Poetry's own table, of which the lock has the versions."""
    if isinstance(dependencies, list):
        return tuple(item for item in dependencies if isinstance(item, str))
    tool = pyproject.get("tool")
    poetry = tool.get("poetry") if isinstance(tool, dict) else None
    table = poetry.get("dependencies") if isinstance(poetry, dict) else None
    found = []
    for name, said in table.items() if isinstance(table, dict) else ():
        if name == "python" or not NAME.fullmatch(name) or (isinstance(said, dict) and said.get("optional")):
            continue
        extras = said.get("extras") if isinstance(said, dict) else None
        named = ",".join(extra for extra in extras or () if isinstance(extra, str) and NAME.fullmatch(extra))
        found.append(f"{name}[{named}]" if named else name)
    return tuple(found)
