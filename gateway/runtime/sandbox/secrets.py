"""Where values that the configuration only names come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Secrets(Protocol):
    """Fills in `${secret:NAME}` and `${env:NAME}` (`registry.secrets.SecretStore`)."""

    def resolve(self, values: Mapping[str, str]) -> dict[str, str]:
        """The values with their references filled in. Raises ConfigError for one that is missing."""
        ...
