"""Connects AI clients to the gateway: finds them, plans a change to each one's file, applies it with a backup."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.connect import edits
from gateway.connect.clients import BY_NAME, ROWS, Row
from gateway.connect.entry import Credentials
from gateway.connect.masks import masked
from registry.file.json_edit import EditRefused

SERVER_NAME = "stockade"
BACKUP = ".stockade-backup-"
"""What the name of a backup has after the file's own."""


def installed(home: Path | None = None) -> list[Row]:
    """The clients that this user seems to have, in the table's order."""
    return [row for row in ROWS if _is_there(row, home)]


def _is_there(row: Row, home: Path | None) -> bool:
    return any(place.exists() for place in row.places(home)) or bool(row.program and shutil.which(row.program))


def row_named(name: str) -> Row:
    """The row of a client. Raises KeyError, naming those there are."""
    try:
        return BY_NAME[name]
    except KeyError:
        raise KeyError(f"{name!r} is not a client that Stockade knows; known: {', '.join(BY_NAME)}.") from None


def variable_for(row: Row) -> str:
    """The environment variable that holds this client's token."""
    return "STOCKADE_TOKEN_" + re.sub(r"\W", "_", row.name).upper()


def credentials_for(
    row: Row, endpoint: str, token: str, *, by_variable: bool, name: str = SERVER_NAME
) -> Credentials:
    """What to write: a variable if wanted and supported by the client, else the token itself."""
    if not token or not (by_variable and row.variables):
        return Credentials(name=name, endpoint=endpoint, token=token)
    variable = variable_for(row)
    return Credentials(name=name, endpoint=endpoint, token=row.variables.format(variable), variable=variable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A planned change to one client's file."""

    row: Row
    path: Path
    before: str | None
    """None when there is no file."""
    after: str
    secret: str = ""
    """A token in the new text; `diff` does not show it."""

    @property
    def needed(self) -> bool:
        return (self.before or "") != self.after

    def diff(self) -> str:
        """Unified diff, without tokens: neither ours, nor an older one, nor those of other servers beside it."""
        old, new = (
            text.replace("\r\n", "\n").removeprefix("\ufeff").splitlines(keepends=True)
            for text in (self.before or "", self.after)
        )
        lines = difflib.unified_diff(old, new, str(self.path), str(self.path), n=2)
        return masked("".join(line if line.endswith("\n") else line + "\n" for line in lines), self.secret)


def plan_connect(row: Row, credentials: Credentials, path: Path, removing: Sequence[str] = ()) -> Change:
    """The change that adds the entry, and takes those of `removing` out. Raises EditRefused, with the file's name."""
    before = _text(path)
    try:
        after = edits.take(row, edits.put(row, before or "", credentials), *removing)
    except (EditRefused, TypeError, AttributeError) as error:
        raise EditRefused(
            f"{path} was left alone: {error}. The entry to paste: stockade connect {row.name} --print"
        ) from error
    return Change(
        row=row, path=path, before=before, after=after, secret="" if credentials.variable else credentials.token
    )


def starts_itself(row: Row, text: str) -> dict[str, Any]:
    """The entries of servers that the client starts itself, beside Stockade and outside its wall. Raises EditRefused."""
    return {name: one for name, one in edits.servers(row, text).items() if name != SERVER_NAME and is_started(one)}


def started_in(row: Row, path: Path) -> dict[str, Any]:
    """`starts_itself` for a file; nothing where it cannot be read."""
    try:
        return starts_itself(row, _text(path) or "")
    except EditRefused:
        return {}


def is_connected(row: Row, path: Path) -> bool:
    """Whether the file has our entry. Raises EditRefused."""
    return SERVER_NAME in edits.servers(row, _text(path) or "")


def is_started(entry: Any) -> bool:
    """Whether the client starts a program for this entry, which is not our own bridge."""
    if not isinstance(entry, Mapping) or entry.get("disabled") is True or entry.get("enabled") is False:
        return False
    command = entry.get("command") or entry.get("cmd")
    command = command.get("path") if isinstance(command, Mapping) else command  # Zed's older form
    first = command[0] if isinstance(command, list) and command else command
    return bool(first) and Path(str(first)).name != "stockade"


def plan_restore(row: Row, path: Path) -> Change | None:
    """The change that puts back the servers that `removing` took out, from the newest backup that has them; without our
    entry. None when there is nothing to put back. Raises EditRefused."""
    before = _text(path)
    bare = edits.take(row, before or "", SERVER_NAME)
    there = edits.servers(row, bare)
    for backup in sorted(path.parent.glob(f"{path.name}{BACKUP}*"), key=backup_age, reverse=True):
        old = edits.take(row, _text(backup) or "", SERVER_NAME)
        gone = {name: one for name, one in starts_itself(row, old).items() if name not in there}
        if not gone:
            continue
        after = old  # where nothing else has changed since: the file as it was
        if edits.take(row, old, *gone) != bare:
            after = bare
            for name, one in gone.items():
                after = edits.put_entry(row, after, name, one)
        return Change(row=row, path=path, before=before, after=after)
    return None


def backup_age(path: Path) -> tuple[str, int]:
    """By its name: the time, then the number of those of the same second."""
    stamp, _, number = path.name.rpartition(BACKUP)[2].partition("_")
    return stamp, int(number) if number.isdecimal() else 0


def plan_disconnect(row: Row, path: Path, name: str = SERVER_NAME) -> Change:
    """The change that removes the entry again. Raises EditRefused, with the file's name."""
    before = _text(path)
    try:
        after = edits.take(row, before or "", name)
    except (EditRefused, TypeError, AttributeError) as error:
        raise EditRefused(f"{path} was left alone: {error}. Remove `{name}` from it by hand.") from error
    return Change(row=row, path=path, before=before, after=after)


def _text(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise EditRefused(f"{path} was left alone: it is not UTF-8.") from None


def apply(change: Change) -> Path | None:
    """Write the change in one step; the old file is kept beside it (the backup's path is returned).

    A file with a token in it is readable by its owner only. A link is followed, so that the file it points to is the
    one that changes. Raises EditRefused when the file changed since the change was planned.
    """
    path = change.path.resolve()
    if _text(path) != change.before:
        raise EditRefused(f"{path} changed while you were looking. Run the command again.")
    path.parent.mkdir(parents=True, exist_ok=True)
    backup = _backup(path) if change.before is not None else None
    mode = 0o600 if change.secret or change.before is None else path.stat().st_mode & 0o777
    fresh = path.with_name(f".{path.name}.stockade-new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        file.write(change.after)
    fresh.chmod(mode)
    fresh.replace(path)
    return backup


def _backup(path: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    target = path.with_name(f"{path.name}{BACKUP}{stamp}")
    number = 2
    while target.exists():
        target = path.with_name(f"{path.name}{BACKUP}{stamp}_{number}")
        number += 1
    shutil.copy2(path, target)
    target.chmod(0o600)
    return target


def snippets(endpoint: str, token: str, names: Sequence[str]) -> dict[str, str]:
    """What to paste, by client, with the token in it."""
    return {
        name: edits.write_snippet(BY_NAME[name], credentials_for(BY_NAME[name], endpoint, token, by_variable=False))
        for name in names
    }
