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

SERVICE: Final = "stockade"
"""The key ring's word for whose secrets they are."""
PREFIX: Final = "STOCKADE_SECRET_"


class Store(StrEnum):
    """The kinds of stores."""

    ENVIRONMENT = "environment"
    FOLDER = "folder"
    KEY_RING = "keyring"
    ENCRYPTED = "encrypted"
    SYSTEM = "system"


class NoKeyRing(Exception):
    """Raised where there is no key ring to write to; the text says why."""


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
        keyring, errors = key_ring()
    except NoKeyRing:
        return None
    try:
        value: str | None = keyring.get_password(SERVICE, name)
    except errors.KeyringError:
        return None
    return value


def keyring_set(name: str, value: str) -> None:
    """Stores a secret in the system's key ring. Raises NoKeyRing."""
    keyring, errors = key_ring()
    try:
        keyring.set_password(SERVICE, name, value)
    except errors.KeyringError as error:
        raise NoKeyRing(f"refuses: {type(error).__name__}") from None


def keyring_remove(name: str) -> bool:
    """Removes a secret from the system's key ring; False where there is none, or no key ring."""
    try:
        keyring, errors = key_ring()
    except NoKeyRing:
        return False
    try:
        keyring.delete_password(SERVICE, name)
    except errors.KeyringError:
        return False
    return True


def key_ring() -> tuple[Any, Any]:
    """The library and its errors. Raises NoKeyRing where it is not installed."""
    try:
        return importlib.import_module("keyring"), importlib.import_module("keyring.errors")
    except ImportError:
        raise NoKeyRing("needs the extra stockade[keyring]") from None
