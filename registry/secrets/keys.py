"""What opens the encrypted file: a key file, or a passphrase from the environment, a pipe, or a person at a terminal.

The passphrase is taken out of the environment as soon as anything of this package looks for a secret, so that no program
that is started later gets it. It stays in this process's memory alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from registry.model.errors import Problem
from registry.secrets.errors import Fault, SealError
from registry.secrets.sealed import Given, KeyKind

PASSPHRASE: Final = "STOCKADE_SECRETS_PASSPHRASE"  # noqa: S105
PASSPHRASE_FD: Final = "STOCKADE_SECRETS_PASSPHRASE_FD"  # noqa: S105
"""A descriptor from which the passphrase is read once; so `up -d` hands it to the gateway."""
KEY_FILE: Final = "STOCKADE_SECRETS_KEY_FILE"
SHORTEST_KEY, LONGEST_KEY = 32, 4096
_taken: Final[dict[str, bytes]] = {}


def take_passphrase(env: MutableMapping[str, str] = os.environ) -> bytes | None:
    """The passphrase that this process was given, removed from its environment; the same answer each time."""
    if text := env.pop(PASSPHRASE, ""):
        _taken["passphrase"] = text.encode("utf-8", "surrogateescape")
    if (number := env.pop(PASSPHRASE_FD, "")).isdecimal():
        try:
            with os.fdopen(int(number), "rb") as pipe:
                _taken["passphrase"] = pipe.read(LONGEST_KEY).removesuffix(b"\n")
        except OSError:
            pass
    return _taken.get("passphrase")


def key_file() -> Path | None:
    """The key file that the environment names."""
    return Path(given) if (given := os.environ.get(KEY_FILE)) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Where the key of the encrypted file comes from: the key file first, then the passphrase, then a person."""

    file: Callable[[], Path | None] = key_file
    passphrase: Callable[[], bytes | None] = field(default=take_passphrase, repr=False)
    ask: Callable[[bool], str] | None = None
    """Asks a person for the passphrase, twice where it is a new one (True). None: there is no person to ask."""

    @property
    def given(self) -> bool:
        """Whether there is a key without asking a person."""
        return self.file() is not None or self.passphrase() is not None

    def key(self, path: Path, *, new: bool) -> Given:
        """What opens the file at `path`. Raises SealError(NO_KEY or BAD_KEY_FILE)."""
        if (file := self.file()) is not None:
            return Given(KeyKind.FILE, read_key(file))
        if (passphrase := self.passphrase()) is not None:
            return Given(KeyKind.PASSPHRASE, passphrase)
        asked = self.ask(new) if self.ask is not None else ""
        if not asked:
            hint = f"Set {PASSPHRASE}, or {KEY_FILE} to the path of a key file, where Stockade runs"
            raise SealError(Fault.NO_KEY, Problem(file=str(path), message="is locked: no key is given", hint=hint))
        _taken["passphrase"] = asked.encode("utf-8", "surrogateescape")
        return Given(KeyKind.PASSPHRASE, _taken["passphrase"])


def read_key(path: Path) -> bytes:
    """The bytes of a key file. Raises SealError(BAD_KEY_FILE)."""

    def bad(message: str, hint: str) -> SealError:
        return SealError(Fault.BAD_KEY_FILE, Problem(file=str(path), message=message, hint=hint))

    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(LONGEST_KEY + 1) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise bad(f"cannot be read: {error.strerror}", f"{KEY_FILE} names it") from None
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    lent = bool(folder) and path.parent == Path(folder or "")  # systemd shows its access list as the group's bits
    if stat.S_IMODE(mode) & (0o007 if lent else 0o077):
        raise bad("holds the key of the secrets and can be read by others", f"Run: chmod 600 {path}")
    if not SHORTEST_KEY <= len(data) <= LONGEST_KEY:
        raise bad(
            f"has {len(data)} bytes; a key file has {SHORTEST_KEY} to {LONGEST_KEY}",
            f"Make one: (umask 077; head -c 32 /dev/urandom > {path})",
        )
    return data
