"""Tokens of AI clients: 256 random bits. The configuration holds their SHA-256 digest; the token is stored nowhere."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from registry.model.settings import ClientSettings

TOKEN_PREFIX = "stockade_client_"  # noqa: S105  # what every token begins with


def mint() -> tuple[str, str]:
    """A new client token and its SHA-256."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    return token, hashlib.sha256(token.encode()).hexdigest()


def client_json(name: str, client: ClientSettings) -> dict[str, Any]:
    """A client as the API and the CLI show it: never the token's digest."""
    data = client.model_dump(mode="json", exclude={"token_sha256"})
    return {"name": name, "has_token": bool(client.token_sha256), **data}
