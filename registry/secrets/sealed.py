"""The encrypted file's content: JSON in which every value is sealed by itself, under one key. Pure.

The key comes from a passphrase by scrypt (RFC 7914), or from the bytes of a key file by HKDF (RFC 5869). Each value is
sealed with ChaCha20-Poly1305 (RFC 8439) under a nonce of its own; name, format and salt are its associated data, so that no
value can be put under another name or into another file. Names are readable: `ls` needs no key. `whole` seals the list of
all entries, so that a missing or older entry is noticed. A key that does not open `check` is another key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from registry.secrets.errors import Fault

FORMAT: Final = 1
MARK: Final = "stockade-secrets"
SCRYPT: Final = {"n": 2**17, "r": 8, "p": 1}
"""128 MiB and about half a second."""
MOST_MEMORY: Final = 512 * 2**20
"""What a file may ask scrypt to take, in bytes."""
KEY_BYTES, SALT_BYTES, NONCE_BYTES = 32, 16, 12


class KeyKind(StrEnum):
    """Where a key comes from."""

    PASSPHRASE = "scrypt"  # noqa: S105
    FILE = "key-file"


class Unsealed(Exception):
    """Raised for content that cannot be opened."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(fault)


@dataclass(frozen=True, slots=True)
class Given:
    """What a person gave to open the file."""

    kind: KeyKind
    data: bytes

    def __repr__(self) -> str:
        return f"Given({self.kind.value})"


def new_document(kind: KeyKind) -> dict[str, Any]:
    """An empty document with a new salt, not sealed yet."""
    settings = dict(SCRYPT) if kind is KeyKind.PASSPHRASE else {}
    return {
        MARK: FORMAT,
        "kdf": {"name": kind.value, **settings, "salt": encoded(os.urandom(SALT_BYTES))},
        "secrets": {},
    }


def parse(content: bytes) -> dict[str, Any]:
    """The document in a file, its shape checked. Raises Unsealed: TAMPERED for what is none, FOREIGN for another format."""
    try:
        found = json.loads(content)
        if not isinstance(found, dict) or MARK not in found:
            raise Unsealed(Fault.TAMPERED)
        if found[MARK] != FORMAT:
            raise Unsealed(Fault.FOREIGN)
        names = found["secrets"]
        if not isinstance(names, dict) or not all(isinstance(one, str) for one in names.values()):
            raise Unsealed(Fault.TAMPERED)
        kind_of(found)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Unsealed(Fault.TAMPERED) from None
    return found


def kind_of(document: Mapping[str, Any]) -> KeyKind:
    """Which kind of key opens it. Raises Unsealed for one that is not known here."""
    try:
        return KeyKind(document["kdf"]["name"])
    except ValueError:
        raise Unsealed(Fault.FOREIGN) from None


def derive(document: Mapping[str, Any], given: Given) -> bytes:
    """The key of the document from what a person gave; takes half a second for a passphrase. Raises Unsealed."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    if kind_of(document) is not given.kind:
        raise Unsealed(Fault.OTHER_KIND)
    kdf = document["kdf"]
    salt = decoded(kdf.get("salt"))
    if given.kind is KeyKind.FILE:
        return HKDF(SHA256(), KEY_BYTES, salt, MARK.encode()).derive(given.data)
    n, r, p = (kdf.get(key) for key in ("n", "r", "p"))
    if not all(isinstance(one, int) and one > 0 for one in (n, r, p)) or 128 * n * r * p > MOST_MEMORY:
        raise Unsealed(Fault.FOREIGN)
    try:
        return Scrypt(salt, KEY_BYTES, n, r, p).derive(given.data)
    except ValueError:
        raise Unsealed(Fault.FOREIGN) from None


def check(document: Mapping[str, Any], key: bytes) -> None:
    """Raises Unsealed: WRONG_KEY, or TAMPERED where the key is right and the list of entries is not what was sealed."""
    try:
        opened(document, key, "check", "", document.get("check"))
    except Unsealed:
        raise Unsealed(Fault.WRONG_KEY) from None
    opened(document, key, "whole", listed(document), document.get("whole"))


def value(document: Mapping[str, Any], key: bytes, name: str) -> bytes | None:
    """One secret; None where there is none of that name. Raises Unsealed."""
    text = document["secrets"].get(name)
    return None if text is None else opened(document, key, "secret", name, text)


def with_value(document: Mapping[str, Any], key: bytes, name: str, data: bytes | None) -> dict[str, Any]:
    """The document with a secret set, or without it for None; sealed again as a whole."""
    secrets = {one: text for one, text in document["secrets"].items() if one != name}
    if data is not None:
        secrets[name] = sealed(document, key, "secret", name, data)
    changed = {**document, "secrets": dict(sorted(secrets.items()))}
    if "check" not in changed:
        changed["check"] = sealed(document, key, "check", "", b"")
    changed["whole"] = sealed(document, key, "whole", listed(changed), b"")
    return changed


def listed(document: Mapping[str, Any]) -> str:
    """A digest of all entries."""
    return hashlib.sha256(json.dumps(document["secrets"], sort_keys=True).encode()).hexdigest()


def bound_to(document: Mapping[str, Any], what: str, name: str) -> bytes:
    """The associated data of one sealed piece."""
    return json.dumps([MARK, FORMAT, document["kdf"], what, name], sort_keys=True).encode()


def sealed(document: Mapping[str, Any], key: bytes, what: str, name: str, data: bytes) -> str:
    """Nonce and ciphertext, as base64."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    nonce = os.urandom(NONCE_BYTES)
    return encoded(nonce + ChaCha20Poly1305(key).encrypt(nonce, data, bound_to(document, what, name)))


def opened(document: Mapping[str, Any], key: bytes, what: str, name: str, text: object) -> bytes:
    """What `sealed` sealed. Raises Unsealed(TAMPERED)."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    raw = decoded(text)
    try:
        return ChaCha20Poly1305(key).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], bound_to(document, what, name))
    except (InvalidTag, ValueError):
        raise Unsealed(Fault.TAMPERED) from None


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def decoded(text: object) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except (binascii.Error, ValueError):
        raise Unsealed(Fault.TAMPERED) from None
