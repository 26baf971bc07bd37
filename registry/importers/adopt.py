"""Takes a file as AI clients keep it (`mcpServers`, or VS Code's `servers`) as a configuration of ours."""

from __future__ import annotations

from typing import Any

from registry.document import Document
from registry.errors import Problem


def adopt(document: Document) -> tuple[dict[str, Any], list[Problem]]:
    """The file's value in our shape, and what is worth knowing about the change."""
    return dict(document.value), []
