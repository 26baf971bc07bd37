"""Reads single files of a project: bounded, only regular ones, only inside of its folder."""

from __future__ import annotations

import errno
import fnmatch
import glob
import itertools
import json
import os
import stat
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.runtime.images.projects.homes import is_of_more
from gateway.runtime.images.projects.layout import ProjectError
from registry.model.mount_risks import NEVER_WHOLE, SHARED

MOST: Final = 16 * 1024 * 1024
"""Bytes of one manifest or lock file."""
MOST_LOOKS: Final = 50_000
"""Files and folders that a search in a project looks at."""
LONGEST: Final = 1000
"""Letters of a pattern."""
HIGHEST: Final = 40
"""Folders that are looked at upwards."""


def read(root: str, name: str, most: int = MOST) -> bytes | None:
    """The content of a regular file below a folder; None where there is none.

    Raises ProjectError for what cannot be read, and for a link out of the folder: others have written it, and what is read
    of it gets into an image.
    """
    found = read_with_mode(root, name, most)
    return None if found is None else found[0]


def read_with_mode(root: str, name: str, most: int = MOST) -> tuple[bytes, int] | None:
    """As `read`, with the file's mode."""
    if "\0" in f"{root}{name}":
        return None
    try:
        descriptor = opened(root, name)
    except (FileNotFoundError, NotADirectoryError, UnicodeError):  # or a name that no file can have
        return None
    except OSError as error:
        raise ProjectError(f"{root}/{name} cannot be read: {error.strerror}. Correct who may read it.") from None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return None
        content = file.read(most + 1)
    if len(content) > most:
        raise ProjectError(
            f"{root}/{name} is larger than {most // 1024 // 1024} MiB, the most that is read of one file."
        )
    return content, found.st_mode


def opened(root: str, name: str) -> int:
    """A file below a folder, open for reading. Raises OSError, and ProjectError for a link out of the folder.

    A link is followed by its path alone: what is opened then is opened with none, even if another has come meanwhile.
    """
    try:
        return opened_with_no_link(root, name)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
    base = os.path.realpath(root)
    require_no_way_out(root, f"{root}/{name}")
    return opened_with_no_link(base, below(base, os.path.realpath(f"{base}/{name}")))


def opened_with_no_link(root: str, name: str) -> int:
    """A file below a folder, open for reading. Raises OSError for a link at or above it: ELOOP or ENOTDIR."""
    *folders, last = name.split("/")
    if ".." in (*folders, last):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    at = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            inner = os.open(folder or ".", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = inner
        # opening a FIFO must not wait
        return os.open(last or ".", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    finally:
        os.close(at)


def text(root: str, name: str, most: int = MOST) -> str:
    """A file below a folder as text; empty where there is none. Raises ProjectError as `read` does."""
    return (read(root, name, most) or b"").decode(errors="replace")


def toml(root: str, name: str) -> dict[str, Any]:
    """A TOML file; empty where there is none. Raises ProjectError with the line where it is none."""
    return toml_text(text(root, name), f"{root}/{name}", "Correct it.")


def toml_text(written: str, path: str, step: str) -> dict[str, Any]:
    """What a TOML file has. Raises ProjectError with its path and the next step where it is none."""
    try:
        return tomllib.loads(written)
    except ValueError as error:  # also a number of very many digits
        raise ProjectError(f"{path} is not valid TOML: {error}. {step}") from None
    except RecursionError:
        raise ProjectError(f"{path} is nested too deeply to be read. {step}") from None


def json_file(root: str, name: str) -> dict[str, Any]:
    """A JSON file with a mapping; empty where there is none. Raises ProjectError with the line where it is none."""
    if not (written := text(root, name)):
        return {}
    try:
        found = json.loads(written)
    except ValueError as error:
        raise ProjectError(f"{root}/{name} is not valid JSON: {error}. Correct it.") from None
    except RecursionError:
        raise ProjectError(f"{root}/{name} is nested too deeply to be read. Correct it.") from None
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


def found_by(root: str, patterns: Iterable[str]) -> Iterator[str]:
    """The folders below `root` that patterns of a workspace name; of very many only the first.

    Nothing outside of `root` is looked at: a pattern that leads out of it names nothing, nor does a link.
    """
    looks = Looks()
    for pattern in patterns:
        parts = [part for part in os.path.normpath(pattern).split("/") if part not in ("", ".")]
        if looks.more() and len(pattern) <= LONGEST and parts and ".." not in parts:
            parts = [
                part for number, part in enumerate(parts) if part != "**" or parts[number - 1 : number] != ["**"]
            ]
            yield from named_by(root, parts, looks)


def named_by(root: str, parts: list[str], looks: Looks) -> Iterator[str]:
    """The folders that the parts of one pattern name."""
    waiting = [(root, 0)]
    seen = set(waiting)
    while waiting:
        path, done = waiting.pop()
        if done == len(parts):
            if path != root:
                yield path
            continue
        part = parts[done]
        following = [(path, done + 1)] if part == "**" else []
        if not glob.has_magic(part):
            following += [(f"{path}/{part}", done + 1)] if looks.more() and is_folder(root, f"{path}/{part}") else []
        else:
            for entry in looks.at(path):
                if entry.name.startswith(".") and not part.startswith("."):
                    continue
                if part == "**":
                    if entry.name != "node_modules" and entry.is_dir(follow_symlinks=False):
                        following.append((entry.path, done))
                elif fnmatch.fnmatchcase(entry.name, part) and is_folder(root, entry.path):
                    following.append((entry.path, done + 1))
        new = [one for one in following if one not in seen]
        seen.update(new)
        waiting += reversed(new)


def is_folder(root: str, path: str) -> bool:
    """Whether that is a folder in `root`, also by links."""
    return os.path.isdir(path) and not leads_out(root, below(root, path))


def files_below(root: str, folder: str, suffix: str) -> Iterator[str]:
    """The paths of files in a folder below `root`, by the end of their names; of very many only the first."""
    looks = Looks()
    waiting = [f"{root}/{folder}"] if is_folder(root, f"{root}/{folder}") else []
    while waiting:
        for entry in looks.at(waiting.pop()):
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif entry.name.endswith(suffix) and entry.is_file() and not leads_out(root, below(root, entry.path)):
                yield below(root, entry.path)


@dataclass(slots=True)
class Looks:
    """How much may still be looked at: others have written what is searched, and a start waits for it."""

    left: int = MOST_LOOKS

    def more(self) -> bool:
        """Whether one look more may be taken, which then counts."""
        self.left -= 1
        return self.left >= 0

    def at(self, folder: str) -> list[os.DirEntry[str]]:
        """What lies in a folder, by name; empty for one that cannot be looked into."""
        try:
            with os.scandir(folder) as entries:
                found = list(itertools.islice(entries, max(self.left, 0)))
        except OSError:
            return []
        self.left -= len(found) + 1
        return sorted(found, key=lambda entry: entry.name)


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


def leads_out(root: str, name: str) -> bool:
    """Whether something below a folder is a link out of it, or behind one."""
    return not is_inside(os.path.realpath(root), os.path.realpath(f"{root}/{name}"))


def require_no_way_out(root: str, path: str) -> None:
    """Raises ProjectError for a path in a folder whose links lead out of it: it leads nowhere in a container."""
    led_to = os.path.realpath(path)
    if not is_inside(os.path.realpath(root), led_to):
        raise ProjectError(
            f"{path} is a link that leads out of {root}, to {led_to}, which the server does not see. "
            f"Put the file into {root}. Is it the program that is run? Name {led_to} itself in the server's entry."
        )


def base_of(root: str, file: str) -> str:
    """The folder that a file that is run belongs to: the project's, or its own where it is in none."""
    return root if root and is_inside(root, file) else os.path.dirname(file)


def require_plain(path: str) -> None:
    """Raises ProjectError for a path that no image can be made for."""
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in path) or ":" in path or not path.isprintable():
        raise ProjectError(f"The path {path!r} has a colon or a control character in it. Rename the folder.")
