"""The stores in which a secret is looked for, in this order, each of which can say where it is.

1. the environment of Stockade (`STOCKADE_SECRET_NAME`)
2. the user's own folder of secret files
3. the system's key ring, with the `keyring` extra
4. the encrypted file
5. folders that others fill: systemd's `CREDENTIALS_DIRECTORY`, then `/run/secrets`
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

PREFIX: Final = "STOCKADE_SECRET_"


class Store(StrEnum):
    """The kinds of stores."""

    ENVIRONMENT = "environment"
    FOLDER = "folder"
    KEY_RING = "keyring"
    ENCRYPTED = "encrypted"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One store as it is here."""

    store: Store
    where: str
    """For people: a path, or what it is."""
    get: Callable[[str], str | None]
    """The value of a name; None where it has none. Raises SecretError."""
    names: Callable[[], list[str]]
    """Names that it has, as far as it can list them: a key ring and the environment cannot."""


def variable(name: str) -> str:
    """The environment variable that can hold the secret."""
    return PREFIX + re.sub(r"[^A-Za-z0-9]", "_", name).upper()


def keyring_lookup(name: str) -> str | None:
    """The secret from the system's key ring; None where there is none, or no key ring."""
    try:
        keyring: Any = importlib.import_module("keyring")
        errors: Any = importlib.import_module("keyring.errors")
    except ImportError:
        return None
    try:
        value: str | None = keyring.get_password("stockade", name)
    except errors.KeyringError:
        return None
    return value
