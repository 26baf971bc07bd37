"""What a container's plan has of a server's secret files: their folders, and a digest that changes with them. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

from gateway.runtime.engine.base import Mount
from gateway.runtime.sandbox.errors import PlanError
from registry.model.secret_files import folders_of

MOST_BYTES: Final = 768 * 1024
"""Of all secret files of a server together: where they lie in one folder, they share a tmpfs of 1 MiB."""


def memory_of(files: Mapping[str, str], owner: str) -> tuple[Mount, ...]:
    """A tmpfs for each folder of secret files, which are to be `owner`'s (`UID:GID`). Raises PlanError."""
    if files and not owner:
        raise PlanError(
            "Its secret files need an owner, and its image names its user in words that it does not explain. Write a "
            '`user` for it, such as user: "1000:1000".'
        )
    if (size := sum(len(text.encode("utf-8", "surrogateescape")) for text in files.values())) > MOST_BYTES:
        raise PlanError(f"Its secret files have {size} bytes; {MOST_BYTES} are the most. Mount a file instead.")
    return tuple(
        Mount(source="", target=folder, read_only=False, volume=True, owner=owner, memory=True)
        for folder in folders_of(files)
    )


def revision_of(certificates: str, files: Mapping[str, str]) -> str:
    """A hash of what is mounted: the digest of the certificates, and the secret files."""
    if not files:
        return certificates
    content = json.dumps([certificates, dict(files)], sort_keys=True)
    return hashlib.sha256(content.encode("utf-8", "backslashreplace")).hexdigest()
