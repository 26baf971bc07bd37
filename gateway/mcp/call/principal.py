"""The principal of a request, as proven by a token."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """The origin of a request, as proven (never as claimed in clientInfo)."""

    client: str
    """The name in `clients`; empty for anonymous."""
    subject: str = ""
    """With OAuth: issuer and subject of the token, so two users of one client are two principals."""

    @property
    def key(self) -> str:
        """Equal for requests that may share a session."""
        return f"{self.client}\n{self.subject}"
