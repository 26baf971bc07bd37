"""The encrypted file of secrets on disk (`secrets.enc`, mode 0600): read whole, replaced whole, one writer at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from registry.model.errors import Problem
from registry.secrets import sealed
from registry.secrets.errors import Fault, SealError
from registry.secrets.keys import KEY_FILE, PASSPHRASE, Keys
from registry.secrets.sealed import KeyKind, Unsealed

NAME: Final = "secrets.enc"
MOST_BYTES: Final = 16 * 2**20
SAID: Final = {
    Fault.OTHER_KIND: ("was made with the other kind of key", f"Give the {{kind}}: {PASSPHRASE} or {KEY_FILE}"),
    Fault.WRONG_KEY: ("does not open with this {given}", "Give the one that it was made with"),
    Fault.TAMPERED: (
        "is damaged, or was changed by something else than Stockade, so nothing of it is used",
        "Restore it from a copy; or move it away and set its secrets again",
    ),
    Fault.FOREIGN: ("has a format that this version of Stockade does not know", "Use the version that wrote it"),
    Fault.EXPOSED: ("can be read by others", "Run: chmod 600 {path}"),
}


def state_folder() -> Path:
    """Where Stockade keeps its state: STOCKADE_STATE_DIR, /var/lib/stockade for root, else below the user's state folder."""
    if given := os.environ.get("STOCKADE_STATE_DIR"):
        return Path(given).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/stockade")
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "stockade"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vault:
    """The encrypted file. Every method raises SealError, whose `fault` says what is wrong."""

    path: Path = field(default_factory=lambda: state_folder() / NAME)
    keys: Keys = field(default_factory=Keys)
    derived: dict[tuple[str, bytes], bytes] = field(default_factory=dict, repr=False)
    """Keys that were derived already, by salt and what they come from: a passphrase takes half a second."""

    @property
    def exists(self) -> bool:
        """Whether there is such a file."""
        return self.path.exists()

    def names(self) -> list[str]:
        """The names of its secrets; needs no key."""
        document = self.read()
        return [] if document is None else list(document["secrets"])

    def get(self, name: str) -> str | None:
        """One secret; None where there is none, which needs no key."""
        document = self.read()
        if document is None or name not in document["secrets"]:
            return None
        with self.explained(document):
            data = sealed.value(document, self.key(document), name)
        return None if data is None else data.decode("utf-8", "surrogateescape")

    def set(self, name: str, value: str) -> None:
        """Stores one secret; makes the file where there is none."""
        self.change(name, value.encode("utf-8", "surrogateescape"))

    def remove(self, name: str) -> bool:
        """Removes one secret; False where there is none."""
        return name in self.names() and self.change(name, None)

    def change(self, name: str, data: bytes | None) -> bool:
        """One change under the lock, written whole or not at all."""
        with self.locked():
            document = self.read()
            if document is None:
                kind = self.keys.key(self.path, new=True).kind
                document = sealed.new_document(kind)
            with self.explained(document):
                changed = sealed.with_value(document, self.key(document), name, data)
            self.write(json.dumps(changed, indent=1).encode() + b"\n")
        return True

    def key(self, document: dict[str, Any]) -> bytes:
        """The key of a document, checked against it. Raises Unsealed."""
        given = self.keys.key(self.path, new="check" not in document)
        known = (str(document["kdf"]), given.data)
        key = self.derived.get(known) or sealed.derive(document, given)
        if "check" in document or document["secrets"]:
            sealed.check(document, key)
        self.derived[known] = key
        return key

    @contextlib.contextmanager
    def explained(self, document: dict[str, Any] | None = None) -> Iterator[None]:
        """Says what is wrong with the file in words."""
        try:
            yield
        except Unsealed as error:
            message, hint = SAID[error.fault]
            made = document["kdf"].get("name") if document is not None else ""
            kind = "passphrase" if made == KeyKind.PASSPHRASE else "key file"
            words = {"kind": kind, "given": kind, "path": self.path}
            problem = Problem(file=str(self.path), message=message.format(**words), hint=hint.format(**words))
            raise SealError(error.fault, problem) from None

    def read(self) -> dict[str, Any] | None:
        """The document; None where there is no file."""
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            with os.fdopen(handle, "rb") as file:
                mode = os.fstat(handle).st_mode
                content = file.read(MOST_BYTES + 1) if stat.S_ISREG(mode) else b""
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self.unusable(error, "read") from None
        with self.explained():
            if stat.S_IMODE(mode) & 0o077:
                raise Unsealed(Fault.EXPOSED)
            if len(content) > MOST_BYTES:
                raise Unsealed(Fault.TAMPERED)
            return sealed.parse(content)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time; the lock ends with the process."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(
                self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise self.unusable(error, "written") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def write(self, content: bytes) -> None:
        """Replaces the file: after a crash it is the old one or the new one, whole."""
        temporary = ""
        try:
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}-")
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(handle)
            Path(temporary).replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            if temporary:
                Path(temporary).unlink(missing_ok=True)
            raise self.unusable(error, "written") from None

    def unusable(self, error: OSError, what: str) -> SealError:
        problem = Problem(file=str(self.path), message=f"cannot be {what}: {error.strerror}")
        return SealError(Fault.UNUSABLE, problem)
