"""Reads single files of a project: bounded, only regular ones, only inside of its folder."""

from __future__ import annotations

import glob
import itertools
import json
import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.runtime.images.projects.homes import is_of_more
from gateway.runtime.images.projects.layout import ProjectError
from registry.model.mount_risks import NEVER_WHOLE, SHARED

MOST: Final = 16 * 1024 * 1024
"""Bytes of one manifest or lock file."""
MOST_FOUND: Final = 20_000
HIGHEST: Final = 40
"""Folders that are looked at upwards."""


def read(path: str, most: int = MOST) -> bytes | None:
    """The content of a regular file; None where there is none. Raises ProjectError for what cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a FIFO must not wait
    except (FileNotFoundError, NotADirectoryError, ValueError):  # also a name with a NUL in it
        return None
    except OSError as error:
        raise ProjectError(f"{path} cannot be read: {error.strerror}. Correct who may read it.") from None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        content = file.read(most + 1)
    if len(content) > most:
        raise ProjectError(f"{path} is larger than {most // 1024 // 1024} MiB, the most that is read of one file.")
    return content


def text(path: str) -> str:
    """A file as text; empty where there is none."""
    return (read(path) or b"").decode(errors="replace")


def toml(path: str) -> dict[str, Any]:
    """A TOML file; empty where there is none. Raises ProjectError with the line where it is none."""
    try:
        return tomllib.loads(text(path))
    except tomllib.TOMLDecodeError as error:
        raise ProjectError(f"{path} is not valid TOML: {error}. Correct it.") from None


def json_file(path: str) -> dict[str, Any]:
    """A JSON file with a mapping; empty where there is none. Raises ProjectError with the line where it is none."""
    if not (written := text(path)):
        return {}
    try:
        found = json.loads(written)
    except ValueError as error:
        raise ProjectError(f"{path} is not valid JSON: {error}. Correct it.") from None
    except RecursionError:
        raise ProjectError(f"{path} is nested too deeply to be read.") from None
    return found if isinstance(found, dict) else {}


def table(found: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A mapping inside of mappings; empty where there is none."""
    for key in keys:
        inner = found.get(key)
        if not isinstance(inner, dict):
            return {}
        found = inner
    return dict(found)


def words(found: Any) -> tuple[str, ...]:
    """The texts of a list."""
    return tuple(item for item in found if isinstance(item, str)) if isinstance(found, list) else ()


def found_by(root: str, pattern: str) -> Iterator[str]:
    """The paths below `root` that a pattern of a workspace names; of very many only the first."""
    found = glob.iglob(f"{glob.escape(root)}/{pattern.removeprefix('./').strip('/')}", recursive=True)
    for path in map(os.path.normpath, itertools.islice(found, MOST_FOUND)):
        if below(root, path):
            yield path


def climb(folder: str) -> Iterator[str]:
    """A folder and those above it that may belong to the same project: up to a repository's, none of the system's, and
    above the first none that is of more than one project (a home, a whole disk)."""
    home = os.path.expanduser("~")
    for step in range(HIGHEST):
        if folder in NEVER_WHOLE or folder in SHARED or folder in ("/root", home) or (step and is_of_more(folder)):
            return
        yield folder
        if os.path.exists(f"{folder}/.git"):
            return
        folder = os.path.dirname(folder)


def below(root: str, path: str) -> str:
    """A path relative to `root`; empty for what is not in it. Both are absolute and normal."""
    return path[len(root.rstrip("/")) + 1 :] if path.startswith(f"{root.rstrip('/')}/") else ""


def is_inside(root: str, path: str) -> bool:
    """Whether a path is that folder or in it."""
    return path == root or bool(below(root, path))


def require_folder(path: str) -> None:
    """Raises ProjectError where that is no folder."""
    if not os.path.isdir(path):
        what = "is not a folder" if os.path.exists(path) else "does not exist"
        raise ProjectError(f"The folder {path} {what}. Correct the path in the server's entry.")


def require_no_way_out(root: str, path: str) -> None:
    """Raises ProjectError for a path in a folder whose links lead out of it: it leads nowhere in a container."""
    led_to = os.path.realpath(path)
    if not is_inside(os.path.realpath(root), led_to):
        raise ProjectError(
            f"{path} is a link that leads out of {root}, to {led_to}, which the server does not see. "
            f"Name {led_to} itself in the server's entry, or put the file into {root}."
        )


def require_plain(path: str) -> None:
    """Raises ProjectError for a path that no image can be made for."""
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in path) or ":" in path or not path.isprintable():
        raise ProjectError(f"The path {path!r} has a colon or a control character in it. Rename the folder.")
