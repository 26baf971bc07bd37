"""What is written into a client's file: the endpoint's URL and the client's credentials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """An endpoint and a token, in the form that one client's file needs."""

    name: str
    """The server's name in that file: `stockade`."""
    endpoint: str
    token: str = ""
    """The token, or the client's way of writing an environment variable; empty while clients need none."""
    variable: str = ""
    """The environment variable's bare name, where the token comes from one."""


Entry: TypeAlias = Callable[[Credentials], dict[str, Any]]
