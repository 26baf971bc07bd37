"""`secret_files`: files that a server finds in its container, in memory only, each with a secret in it. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Final

from pydantic import AfterValidator

from registry.model.errors import Finding, Invalid
from registry.model.fields import Text

MOST: Final = 32
"""Files of one server."""
PATH: Final = re.compile(r"(?:/[A-Za-z0-9._@+-]+){3,}")
CLOSED: Final = ("/proc", "/sys", "/dev", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/run/stockade")
"""Where no folder of a server's own may lie."""


def check_secret_files(files: Mapping[str, str]) -> Mapping[str, str]:
    """The files as they are. Raises Invalid for a path that cannot be one."""
    bad = [Finding((path,), *wrong) for path in files if (wrong := wrong_with(path))]
    if len(files) > MOST:
        bad.append(Finding((), f"has {len(files)} files, and a server may have {MOST}"))
    if bad:
        raise Invalid.all(bad)
    return files


def wrong_with(path: str) -> tuple[str, str] | None:
    """What is wrong with a path, and what to do."""
    if not PATH.fullmatch(path) or posixpath.normpath(path) != path:
        hint = "Write a whole path with two folders or more, such as /run/secrets/token"
        return f"{path!r} cannot be the path of a secret's file", hint
    folder = posixpath.dirname(path)
    if any(f"{path}/".startswith(f"{closed}/") for closed in CLOSED):
        return (
            f"{folder} cannot be a folder of secrets, whose other files nothing would see",
            "Write /run/secrets/NAME",
        )
    return None


def folders_of(paths: Iterable[str]) -> list[str]:
    """The folders of the files, each once: each is one tmpfs, which hides what the image has there."""
    return sorted({posixpath.dirname(path) for path in paths})


SecretFiles = Annotated[Mapping[str, Text], AfterValidator(check_secret_files)]
