"""Where values that the configuration only names come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Secrets(Protocol):
    """Fills in `${secret:NAME}`, `${env:NAME}` and `${command:…}` (`registry.secrets.SecretStore`)."""

    def resolve(self, values: Mapping[str, str], *, commands: bool = True) -> dict[str, str]:
        """The values with their references filled in. Raises ConfigError for one that is missing.

        It runs commands, for up to ten seconds each: call it in a thread. Without `commands` it runs none, and leaves
        their references as they are.
        """
        ...
