"""Adds a server's entry to the text of a client's file, or removes it: JSON, TOML or YAML; all else of the text stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.connect import toml_text, yaml_text
from gateway.connect.clients import Row, Syntax
from gateway.connect.entry import Credentials
from gateway.connect.line_ends import MARK, edited
from registry.file import json_edit


def container(row: Row, text: str) -> tuple[str, ...]:
    """The path to the servers in this particular file. opencode 2 nests them one level deeper."""
    if row.name == "opencode" and "servers" in (_walk(read(row, text), ("mcp",)) or {}):
        return ("mcp", "servers")
    return row.container


def read(row: Row, text: str) -> Any:
    """The file's value as plain types. Raises EditRefused when it is not what it should be."""
    text = text.removeprefix(MARK)
    match row.syntax:
        case Syntax.JSON:
            return json_edit.load(text)
        case Syntax.TOML:
            return toml_text.load(text)
        case Syntax.YAML:
            return yaml_text.load(text).value or {}


def servers(row: Row, text: str) -> dict[str, Any]:
    """The entries in the file by name. Raises EditRefused."""
    held = _walk(read(row, text), container(row, text)) if text.strip() else None
    if row.listed:
        return {str(item["name"]): item for item in held or () if isinstance(item, Mapping) and "name" in item}
    return dict(held) if isinstance(held, Mapping) else {}


def put(row: Row, text: str, credentials: Credentials) -> str:
    """The text with the entry added, or replaced when there was one of that name. Raises EditRefused."""
    return put_entry(row, text, credentials.name, row.entry(credentials))


def put_entry(row: Row, text: str, name: str, entry: Mapping[str, Any]) -> str:
    """The text with that entry, as the client writes it. Raises EditRefused."""
    return edited(text, lambda plain: _put(row, plain, name, dict(entry)))


def _put(row: Row, text: str, name: str, entry: dict[str, Any]) -> str:
    match row.syntax:
        case Syntax.JSON:
            return json_edit.set_path(text, (*container(row, text), name), entry)
        case Syntax.TOML:
            return toml_text.put(text, row.container[0], name, entry, listed=row.listed)
        case Syntax.YAML:
            return yaml_text.put(text, row.container[0], name, entry, listed=row.listed)


def take(row: Row, text: str, *names: str) -> str:
    """The text without these entries; the same text when it has none of them. Raises EditRefused."""
    return edited(text, lambda plain: _take(row, plain, names) if plain.strip() else plain)


def _take(row: Row, text: str, names: Sequence[str]) -> str:
    match row.syntax:
        case Syntax.JSON:
            for name in names:
                text = json_edit.remove_path(text, (*container(row, text), name))
            return text
        case Syntax.TOML:
            return toml_text.take(text, row.container[0], list(names), listed=row.listed)
        case Syntax.YAML:
            return yaml_text.take(text, row.container[0], list(names), listed=row.listed)


def write_snippet(row: Row, credentials: Credentials) -> str:
    """A whole small file with just this entry, to paste from."""
    return put(row, "", credentials).strip() + "\n"


def _walk(data: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data
