"""What can be wrong with a store of secrets, as kinds; no text here ever holds a value."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from registry.model.errors import ConfigError, Problem

MAX_BYTES: Final = 64 * 1024
"""The longest value of a secret, in bytes."""


class Fault(StrEnum):
    """What is wrong with the encrypted file."""

    NO_KEY = "no-key"
    """Neither a passphrase nor a key file is given."""
    BAD_KEY_FILE = "bad-key-file"
    """The key file cannot be read, is too short, or others can read it."""
    OTHER_KIND = "other-kind"
    """It was made with a passphrase and a key file is given, or the other way round."""
    WRONG_KEY = "wrong-key"
    """It is another passphrase, or another key file."""
    TAMPERED = "tampered"
    """Its content was changed by something else than Stockade, or lost a part."""
    FOREIGN = "foreign"
    """Another version wrote it, in a format that is not known here."""
    EXPOSED = "exposed"
    """Others can read it."""
    UNUSABLE = "unusable"
    """The disk or the file system refuses."""


class SecretError(ConfigError):
    """Raised when a reference cannot be filled in or a store not be used; each problem names the reference and its place,
    never a value."""


class SealError(SecretError):
    """Raised when the encrypted file cannot be used; `fault` says why."""

    def __init__(self, fault: Fault, problem: Problem) -> None:
        self.fault = fault
        super().__init__([problem])
