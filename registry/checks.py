"""What can only be seen with the whole configuration at hand: contradictions, and choices worth a warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from registry.config import Config
from registry.document import Document
from registry.errors import ConfigError, Problem


def check_document(document: Document) -> None:
    """Raises ConfigError for a file that holds no configuration at all."""
    if document.value is None:
        hint = "Add a server with `stockade run NAME` (see `stockade search`)"
        raise ConfigError([Problem(file=document.file, line=1, message="is empty", hint=hint)])
    if not isinstance(document.value, dict):
        hint = "It starts with `version: 1`, then `mcpServers:`"
        raise ConfigError([Problem(file=document.file, line=1, message="holds no mapping (key: value)", hint=hint)])


def check_config(
    config: Config, raw: dict[str, Any], document: Document, path: Path
) -> tuple[list[Problem], list[Problem]]:
    """Problems and warnings."""
    return [], []
