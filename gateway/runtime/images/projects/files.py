"""Reads the files of a project for an image: without what is secret, installed, or to be ignored, and within bounds."""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from pathspec import GitIgnoreSpec

from gateway.runtime.images.ignore_file import IGNORE_FILE, is_pattern, wrong_line
from gateway.runtime.images.projects.disk import below, is_inside, read, read_with_mode, text
from gateway.runtime.images.projects.layout import Layout, ProjectError, Tree

MOST_FILES: Final = 20_000
MOST_BYTES: Final = 128 * 1024 * 1024
DEEPEST: Final = 100
"""Folders, one in the other."""
MOST_IGNORES: Final = 1024 * 1024
"""Bytes of one file with patterns."""
IGNORES: Final = (".gitignore", ".dockerignore", IGNORE_FILE)
NEVER: Final = (
    ".git",
    ".hg",
    ".svn",
    ".env*",
    ".envrc",
    ".npmrc",
    ".yarnrc*",
    "bunfig.toml",
    ".bunfig.toml",
    ".netrc",
    ".pypirc",
    "node_modules",
    ".venv",
    "__pycache__",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".tox",
    "*.pyc",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.ppk",
    "*.jks",
    "*.keystore",
    "*.kdbx",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".git-credentials",
    ".pgpass",
    ".htpasswd",
    "credentials.json",
)
"""Nothing that is wanted in an image: secrets, histories, caches, and what is installed for this machine."""
UNWANTED: Final = GitIgnoreSpec.from_lines(NEVER)


@dataclass(frozen=True, slots=True)
class Hidden:
    """What one `.stockadeignore` names, in a project's folder or above it."""

    file: str
    prefix: str
    """From its folder to the project's."""
    spec: GitIgnoreSpec

    def names(self, name: str) -> bool:
        """Whether it names something of the project, by its path below the project's folder."""
        return bool(self.spec.match_file(f"{self.prefix}{name}"))


@dataclass(slots=True)
class Reading:
    """What was read so far."""

    root: str
    never: GitIgnoreSpec
    ignored: GitIgnoreSpec
    kept: tuple[str, ...]
    """Paths that are read although Git is to ignore them, with all below them."""
    hidden: tuple[Hidden, ...] = ()
    """What nothing else overrides."""
    files: dict[str, bytes] = field(default_factory=dict)
    programs: set[str] = field(default_factory=set)
    size: int = 0

    def leaves_out(self, path: str, *, folder: bool) -> bool:
        """Whether something is not read."""
        name = f"{path}/" if folder else path
        if self.never.match_file(name) or any(one.names(name) for one in self.hidden):
            return True
        kept = any(is_inside(keep, path) or (folder and is_inside(path, keep)) for keep in self.kept)
        return not kept and self.ignored.match_file(name)

    def add(self, path: str) -> None:
        """Reads one file. Raises ProjectError where it is too much."""
        found = read_with_mode(self.root, path, MOST_BYTES)
        if found is None:
            return
        content, mode = found
        self.size += len(content)
        if self.size > MOST_BYTES or len(self.files) >= MOST_FILES:
            raise ProjectError(
                f"{self.root} has more than {MOST_FILES:,} files, or more than {MOST_BYTES // 1024 // 1024} MiB: too much "
                f"to copy into an image. List in {self.root}/{IGNORE_FILE} what the server does not need."
            )
        self.files[path] = content
        if mode & 0o100:
            self.programs.add(path)


def reading_of(layout: Layout) -> Reading:
    """Nothing read yet. Raises ProjectError."""
    root = layout.root
    lines = [line for name in IGNORES for line in ignore_lines(root, name)]
    return Reading(
        root=root,
        never=UNWANTED,
        ignored=GitIgnoreSpec.from_lines(lines),
        kept=tuple(dict.fromkeys(topmost(path) for path in layout.started)),
        hidden=tuple(hidden_by(root)),
    )


def hidden_by(root: str) -> Iterator[Hidden]:
    """What the `.stockadeignore` in a folder, and those above it, name. Raises ProjectError for a line that is no pattern:
    a mistake must not copy in silence what is to be hidden."""
    for folder in (root, *map(str, PurePosixPath(root).parents)):
        lines = text(folder, IGNORE_FILE, MOST_IGNORES).splitlines()
        if wrong := wrong_line(f"{folder}/{IGNORE_FILE}", lines):
            raise ProjectError(wrong)
        if lines:
            inner = below(folder, root)
            yield Hidden(f"{folder}/{IGNORE_FILE}", f"{inner}/" if inner else "", GitIgnoreSpec.from_lines(lines))


def folder_state(layout: Layout) -> str:
    """A hash of a project's files, by path, size and age; of very many only the first. Raises ProjectError, OSError."""
    digest = hashlib.sha256()
    for path in itertools.islice(walk(reading_of(layout), ""), MOST_FILES):
        found = os.stat(f"{layout.root}/{path}")
        digest.update(
            f"{path}\0{found.st_mtime_ns}\0{found.st_size}\0{found.st_ino}\0".encode(errors="surrogateescape")
        )
    return digest.hexdigest()


def source_tree(layout: Layout) -> Tree:
    """The project's files. Raises ProjectError. Manifests are as the layout has them."""
    root = layout.root
    reading = reading_of(layout)
    for path in layout.started:
        if hiding := next((one.file for one in reading.hidden if one.names(path)), ""):
            raise ProjectError(f"{hiding} hides {root}/{path}, which the server runs. Take it out of that file.")
    for path in walk(reading, ""):
        reading.add(path)
    files = {**reading.files, **layout.declared}
    return Tree(path=root, files=files, programs=frozenset(reading.programs))


def declared_file(root: str, name: str) -> bytes | None:
    """The content of a manifest, a lock, or what they name; None where there is none. Raises ProjectError.

    It gets into images whatever its name is, so none of what is never wanted there may be behind that name.
    """
    content = read(root, name)
    led_to = "" if content is None else below(os.path.realpath(root), os.path.realpath(f"{root}/{name}"))
    if led_to and UNWANTED.match_file(led_to):
        raise ProjectError(
            f"{root}/{name} is named by the project for its installation, and leads to {root}/{led_to}, which is never in "
            "an image. Take it out of the project's manifest, or replace the link by a file."
        )
    return content


def topmost(path: str) -> str:
    """What of a started file's path is kept: `build/index.js` needs all of `build`, `server.py` only itself."""
    return path.partition("/")[0]


def ignore_lines(root: str, name: str) -> Iterator[str]:
    """The patterns of one file, as Git reads them: one that is none, such as `!`, names nothing."""
    return filter(is_pattern, text(root, name, MOST_IGNORES).splitlines())


def walk(reading: Reading, folder: str) -> Iterator[str]:
    """The paths of the files that are read, in order. Raises ProjectError."""
    levels = [iter(entries_of(reading.root, folder))]
    while levels:
        entry = next(levels[-1], None)
        if entry is None:
            levels.pop()
            continue
        path = below(reading.root, entry.path)
        is_folder = entry.is_dir(follow_symlinks=False)
        if reading.leaves_out(path, folder=is_folder):
            continue
        if entry.is_symlink():
            target = linked_file(reading.root, path)
            if target and not reading.leaves_out(target, folder=False):
                yield path
        elif is_folder:
            if not os.path.exists(f"{entry.path}/pyvenv.cfg"):
                levels.append(iter(entries_of(reading.root, path)))
                if len(levels) > DEEPEST:
                    raise ProjectError(
                        f"Below {reading.root}/{path[:200]} folders lie more than {DEEPEST} deep in {reading.root}. "
                        f"List them in {reading.root}/{IGNORE_FILE}, or remove them."
                    )
        elif stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            yield path


def entries_of(root: str, folder: str) -> Sequence[os.DirEntry[str]]:
    """What lies in a folder below `root`, by name. Raises ProjectError."""
    path = f"{root}/{folder}" if folder else root
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ProjectError(f"{path} cannot be read: {error.strerror}. Correct who may read it.") from None


def linked_file(root: str, path: str) -> str:
    """Where the link there leads, below `root`; empty unless to a file. Raises ProjectError where it leads out of it."""
    led_to = os.path.realpath(f"{root}/{path}")
    if not is_inside(os.path.realpath(root), led_to):
        raise ProjectError(
            f"{root}/{path} is a link that leads out of the folder, to {led_to}. List it in {root}/{IGNORE_FILE}, or put "
            "what it leads to into the folder."
        )
    return below(os.path.realpath(root), led_to) if os.path.isfile(led_to) else ""
