"""Explains errors of the disk: which file, why, and what to do. The system's own error often names no file."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_ELSEWHERE: Final = "et STOCKADE_STATE_DIR to a short path that you may write to."


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds this file to an OSError that names none: a write to a full disk does not say where."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def in_words(error: OSError, path: Path | None = None, done: str = "") -> str:
    """One or two sentences about a file that could not be used; `path` where the error names none. `done` is what
    the gateway wanted to do with a file of its own (`made`, …).
    """
    file = error.filename or path
    if file is None or error.strerror is None:
        return str(error)
    shown = os.fsdecode(file)
    if error.errno in FULL:
        return f"{shown} cannot be {done or 'written'}: {_full(Path(shown))}, then try again."
    if error.errno == errno.EROFS:
        return (
            f"{shown} cannot be {done or 'written'}: its disk is mounted read-only. "
            f"Mount it so that it can be written, or s{_ELSEWHERE}"
        )
    return f"{shown} cannot be {done}: {error.strerror}. S{_ELSEWHERE}" if done else f"{shown}: {error.strerror}."


def _full(file: Path) -> str:
    folder = next((one for one in file.parents if one.is_dir()), Path("/"))
    found = os.statvfs(folder)
    if found.f_files and not found.f_favail:
        return f"its disk has room for no more files, however small. Remove some (df -i {folder} counts them)"
    return f"its disk is full. Make room on it (df -h {folder} shows how much there is)"
