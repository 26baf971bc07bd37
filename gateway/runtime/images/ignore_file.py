"""The file that names what neither a mount nor an image shows, and what is wrong with a line of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pathspec import GitIgnoreSpec
from pathspec.patterns.gitignore import GitIgnorePatternError

IGNORE_FILE: Final = ".stockadeignore"


def wrong_line(path: str, lines: Iterable[str]) -> str:
    """The error for the first line that hides nothing; empty: there is none. A slip must not show a file in silence."""
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#") and not is_pattern(line):
            return f"{path}, line {number}: {line!r} hides nothing. Write a pattern as in .gitignore."
    return ""


def is_pattern(line: str) -> bool:
    """Whether a line names something."""
    try:
        return any(one.include is not None for one in GitIgnoreSpec.from_lines([line]).patterns)
    except GitIgnorePatternError:
        return False
