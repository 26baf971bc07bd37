"""Secrets that are files: the user's own folder (which Stockade writes), and folders that a service manager or engine fills.

A name is one file directly in the folder. In the user's own folder no file may be readable by others; in the others
modes are their maker's matter. A link leads nowhere but to a file of the same folder (Kubernetes writes such ones).
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from registry.model.errors import Problem
from registry.model.references import SECRET_NAME
from registry.secrets.errors import MAX_BYTES, SecretError

SYSTEM: Final = Path("/run/secrets")


def default_folder() -> Path:
    """The folder of the secret files: `$STOCKADE_SECRETS_DIR`, else below the configuration folder."""
    if given := os.environ.get("STOCKADE_SECRETS_DIR"):
        return Path(given)
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "stockade" / "secrets"


def filled_folders() -> tuple[Path, ...]:
    """The folders that others fill: systemd's credentials, then Docker's secrets."""
    given = os.environ.get("CREDENTIALS_DIRECTORY")
    return (*((Path(given),) if given else ()), SYSTEM)


@dataclass(frozen=True, slots=True)
class SecretFolder:
    """One folder of secret files; `own` is the one that Stockade writes."""

    path: Path
    own: bool = False

    def names(self) -> list[str]:
        """The names of its files that can be secrets' names, in order."""
        try:
            found = sorted(os.listdir(self.path))
        except OSError:
            return []
        return [name for name in found if SECRET_NAME.fullmatch(name) and self.inside(name) is not None]

    def inside(self, name: str) -> Path | None:
        """Where the file really is; None for what is no plain file or leads out of the folder."""
        try:
            path = (self.path / name).resolve(strict=True)
            return path if path.is_relative_to(self.path.resolve(strict=True)) and path.is_file() else None
        except (OSError, RuntimeError):
            return None

    def get(self, name: str) -> str | None:
        """The secret, without one line break at its end; None where there is none. Raises SecretError."""
        path = self.path / name
        real = self.inside(name)
        if real is None:
            if path.is_symlink() and path.exists():
                hint = "Put the file itself there"
                raise SecretError([Problem(file=str(path), message="leads out of its folder", hint=hint)])
            return None
        try:
            handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(handle, "rb") as file:
                mode = os.fstat(handle).st_mode
                if self.own and stat.S_IMODE(mode) & 0o077:
                    hint = f"Run: chmod 600 {path}"
                    raise SecretError([Problem(file=str(path), message="can be read by others", hint=hint)])
                data = file.read(MAX_BYTES + 1) if stat.S_ISREG(mode) else b""
        except OSError as error:
            raise SecretError([Problem(file=str(path), message=f"cannot be read: {error.strerror}")]) from None
        if len(data) > MAX_BYTES:
            raise SecretError([Problem(file=str(path), message=f"is larger than {MAX_BYTES} bytes")])
        return data.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")

    def set(self, name: str, value: str) -> Path:
        """Stores a secret in its file, readable by its owner only. Raises SecretError."""
        path = self.path / name
        temporary = ""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, temporary = tempfile.mkstemp(dir=self.path, prefix=".new-")
            with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                file.write(value)
            Path(temporary).replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                Path(temporary or os.devnull).unlink() if temporary else None
            raise SecretError([Problem(file=str(path), message=f"cannot be written: {error.strerror}")]) from error
        return path

    def remove(self, name: str) -> bool:
        """Removes a secret's file; False where there is none. Raises SecretError."""
        path = self.path / name
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise SecretError([Problem(file=str(path), message=f"cannot be removed: {error.strerror}")]) from error
        return True
