"""Connects AI clients to the gateway: finds them, plans a change to each one's file, applies it with a backup."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.connect import edits
from gateway.connect.clients import BY_NAME, ROWS, Row
from gateway.connect.entry import Credentials
from registry.file.json_edit import EditRefused

SERVER_NAME = "stockade"
HIDDEN = "•" * 8


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
        """Unified diff, without the token."""
        old, new = (self.before or "").splitlines(keepends=True), self.after.splitlines(keepends=True)
        lines = difflib.unified_diff(old, new, str(self.path), str(self.path), n=2)
        text = "".join(line if line.endswith("\n") else line + "\n" for line in lines)
        return text.replace(self.secret, HIDDEN) if self.secret else text


def plan_connect(row: Row, credentials: Credentials, path: Path) -> Change:
    """The change that adds the entry. Raises EditRefused, with the file's name."""
    before = _text(path)
    try:
        after = edits.put(row, before or "", credentials)
    except (EditRefused, TypeError, AttributeError) as error:
        raise EditRefused(
            f"{path} was left alone: {error}. The entry to paste: stockade connect {row.name} --print"
        ) from error
    return Change(
        row=row, path=path, before=before, after=after, secret="" if credentials.variable else credentials.token
    )


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
    target = path.with_name(f"{path.name}.stockade-backup-{stamp}")
    shutil.copy2(path, target)
    target.chmod(0o600)
    return target


def snippets(endpoint: str, token: str, names: Sequence[str]) -> dict[str, str]:
    """What to paste, by client, with the token in it."""
    return {
        name: edits.write_snippet(BY_NAME[name], credentials_for(BY_NAME[name], endpoint, token, by_variable=False))
        for name in names
    }
