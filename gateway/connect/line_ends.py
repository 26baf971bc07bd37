"""Edits a text as if it had no byte order mark and plain line ends, and puts both back. Pure."""

from __future__ import annotations

from collections.abc import Callable
from difflib import SequenceMatcher
from typing import Final

MARK: Final = "\ufeff"
WINDOWS: Final = "\r\n"


def edited(text: str, edit: Callable[[str], str]) -> str:
    """What `edit` makes of the text: its byte order mark stays, and so do the ends of lines; new lines end as most do."""
    mark = MARK if text.startswith(MARK) else ""
    body = text.removeprefix(MARK)
    changed = edit(body.replace(WINDOWS, "\n"))
    return mark + (with_ends(body, changed) if WINDOWS in body else changed)


def with_ends(before: str, after: str) -> str:
    """The text `after`, whose lines end with `\\n`, with the ends that its lines had in `before`."""
    old = before.split("\n")
    plain = [line.removesuffix("\r") for line in old]
    usual = "\r\n" if before.count(WINDOWS) * 2 >= before.count("\n") else "\n"
    new = after.split("\n")
    ends = [usual] * len(new)
    for same in SequenceMatcher(None, plain, new, autojunk=False).get_matching_blocks():
        for step in range(same.size):
            if same.a + step < len(old) - 1:
                ends[same.b + step] = "\r\n" if old[same.a + step].endswith("\r") else "\n"
    return "".join(line + end for line, end in zip(new[:-1], ends, strict=False)) + new[-1]
