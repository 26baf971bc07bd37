"""Adds a server's entry to the text of a client's file, or removes it: JSON, TOML or YAML, comments kept."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from gateway.connect.clients import Row, Syntax
from gateway.connect.entry import Credentials
from registry.file import json_edit
from registry.file.json_edit import EditRefused


def container(row: Row, text: str) -> tuple[str, ...]:
    """The path to the servers in this particular file. opencode 2 nests them one level deeper."""
    if row.name == "opencode" and "servers" in (_walk(read(row, text), ("mcp",)) or {}):
        return ("mcp", "servers")
    return row.container


def read(row: Row, text: str) -> Any:
    """The file's value as plain types. Raises EditRefused when it is not what it should be."""
    match row.syntax:
        case Syntax.JSON:
            return json_edit.load(text)
        case Syntax.TOML:
            return _toml(text).unwrap()
        case Syntax.YAML:
            return _yaml_load(text)


def put(row: Row, text: str, credentials: Credentials) -> str:
    """The text with the entry added, or replaced when there was one of that name."""
    entry = row.entry(credentials)
    match row.syntax:
        case Syntax.JSON:
            return json_edit.set_path(text, (*container(row, text), credentials.name), entry)
        case Syntax.TOML:
            return _toml_put(row, text, credentials.name, entry)
        case Syntax.YAML:
            return _yaml_put(row, text, credentials.name, entry)


def take(row: Row, text: str, name: str) -> str:
    """The text without the entry; the same text when it has none."""
    match row.syntax:
        case Syntax.JSON:
            return json_edit.remove_path(text, (*container(row, text), name)) if text.strip() else text
        case Syntax.TOML:
            return _toml_take(row, text, name)
        case Syntax.YAML:
            return _yaml_take(row, text, name)


def write_snippet(row: Row, credentials: Credentials) -> str:
    """A whole small file with just this entry, to paste from."""
    return put(row, "", credentials).strip() + "\n"


def _walk(data: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data


def _toml(text: str) -> Any:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        return tomlkit.parse(text)
    except TOMLKitError as error:
        raise EditRefused(f"it is not TOML ({error})") from None


def _toml_put(row: Row, text: str, name: str, entry: dict[str, Any]) -> str:
    import tomlkit

    document = _toml(text)
    (key,) = row.container
    if row.listed:
        items = document.setdefault(key, tomlkit.aot())
        _drop(items, name)
        items.append(tomlkit.item(entry))
    else:
        servers = document.setdefault(key, tomlkit.table(is_super_table=True))
        servers[name] = tomlkit.item(entry)
    return tomlkit.dumps(document)


def _toml_take(row: Row, text: str, name: str) -> str:
    import tomlkit

    document = _toml(text)
    (key,) = row.container
    held = document.get(key)
    if held is None or not _remove(row, held, name):
        return text
    if not held:
        del document[key]
    return tomlkit.dumps(document)


def _drop(items: Any, name: str) -> bool:
    for at in reversed([i for i, item in enumerate(items) if isinstance(item, Mapping) and item.get("name") == name]):
        del items[at]
        return True
    return False


def _remove(row: Row, held: Any, name: str) -> bool:
    if row.listed:
        return _drop(held, name)
    return held.pop(name, None) is not None


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml


def _yaml_load(text: str) -> Any:
    from ruamel.yaml.error import YAMLError

    try:
        data = _yaml().load(text)
    except YAMLError as error:
        raise EditRefused(f"it is not YAML ({' '.join(str(error).split())})") from None
    if data is not None and not isinstance(data, dict):
        raise EditRefused("it does not hold a YAML mapping")
    return {} if data is None else data


def _yaml_put(row: Row, text: str, name: str, entry: dict[str, Any]) -> str:
    data = _yaml_load(text)
    (key,) = row.container
    if data.get(key) is None:
        data[key] = [] if row.listed else {}
    if row.listed:
        _drop(data[key], name)
        data[key].append(entry)
    else:
        data[key][name] = entry
    return _yaml_dump(data)


def _yaml_take(row: Row, text: str, name: str) -> str:
    data = _yaml_load(text)
    (key,) = row.container
    held = data.get(key)
    if not held or not _remove(row, held, name):
        return text
    if not held:
        del data[key]
    return _yaml_dump(data) if data else ""


def _yaml_dump(data: Any) -> str:
    out = io.StringIO()
    _yaml().dump(data, out)
    return out.getvalue()
