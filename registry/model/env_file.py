"""Files of variables as `docker run --env-file` has them: `NAME=VALUE` in lines, read where Stockade runs."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from registry.model.errors import Invalid

MAX_BYTES: Final = 2**20
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def read_env_file(path: Path) -> dict[str, str | None]:
    """The variables of a file, as Docker reads it: values are taken as they are, quotes and all, and `NAME` alone (None)
    is taken from the environment. Raises Invalid, with file and line."""
    found: dict[str, str | None] = {}
    for number, line in enumerate(content(path).splitlines(), 1):
        line = line.lstrip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not NAME.fullmatch(name if equals else name.rstrip()):
            message = f"{path}, line {number}: does not begin with an environment variable's name"
            raise Invalid(message, "Write NAME=VALUE in each line, without spaces around =")
        if "\0" in value:
            raise Invalid(f"{path}, line {number}: holds NUL", "Take it out")
        found[name if equals else name.rstrip()] = value if equals else None
    return found


def at_once(path: str, flags: int) -> int:
    """Opens without waiting for someone to write, as a named pipe would."""
    return os.open(path, flags | os.O_NONBLOCK)


def content(path: Path) -> str:
    """The text of the file, which is a plain one of at most a megabyte. Raises Invalid."""
    hint = "Correct the path, or write the variables under `env:`"
    if "\0" in str(path):
        raise Invalid("the path of --env-file holds NUL", hint)
    try:
        with open(path, "rb", opener=at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Invalid(f"{path} is not a file of variables", hint)
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}", hint) from None
    if len(raw) > MAX_BYTES:
        raise Invalid(f"{path} is longer than a megabyte", hint)
    try:
        return raw.decode().removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise Invalid(f"{path} is not text in UTF-8", hint) from None
