"""Finds the files in which AI clients on this machine keep their servers, and reads them.

`find()` looks in the places of the table; `read(client, path)` gives the servers in our shape, ready for
`registry.edit.add_server`. The paths are those of vendors' documentation as of 2026-08. When a client moves its file, one
line changes.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from registry.check.checks import shown_folders
from registry.file.document import Document, compose_json, parse, read_text
from registry.importers.adopt import adopt_servers
from registry.importers.sections import Written, at, written
from registry.model.errors import ConfigError, Finding, Invalid, Problem
from registry.model.references import references
from registry.model.server import Server
from registry.model.sources import ProjectSource, RemoteSource
from registry.model.spec import plan, read_files

MANIFESTS = "a manifest (package.json, pyproject.toml, requirements.txt, …)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A file in which a client keeps its servers."""

    client: str
    """`claude-desktop`, `cursor`, …: a valid client's name of ours."""
    title: str
    path: str
    """Below the home folder, or with {config}: ~/.config, ~/Library/Application Support or %APPDATA%."""


PLACES = tuple(
    Place(client=client, title=title, path=path)
    for client, title, path in (
        ("claude-desktop", "Claude Desktop", "{config}/Claude/claude_desktop_config.json"),
        ("claude-code", "Claude Code", ".claude.json"),
        ("cursor", "Cursor", ".cursor/mcp.json"),
        ("vscode", "VS Code", "{config}/Code/User/mcp.json"),
        ("vscode-insiders", "VS Code Insiders", "{config}/Code - Insiders/User/mcp.json"),
        ("copilot-cli", "GitHub Copilot CLI", ".copilot/mcp-config.json"),
        ("windsurf", "Windsurf", ".codeium/windsurf/mcp_config.json"),
        ("cline", "Cline", ".cline/data/settings/cline_mcp_settings.json"),
        (
            "roo-code",
            "Roo Code",
            "{config}/Code/User/globalStorage/rooveterinaryinc.roo-cline/settings/mcp_settings.json",
        ),
        ("codex", "Codex", ".codex/config.toml"),
        ("gemini-cli", "Gemini CLI", ".gemini/settings.json"),
        ("antigravity", "Antigravity", ".gemini/config/mcp_config.json"),
        ("opencode", "opencode", "{config}/opencode/opencode.json"),
        ("opencode", "opencode", "{config}/opencode/opencode.jsonc"),
        ("goose", "Goose", "{config}/goose/config.yaml"),
        ("continue", "Continue", ".continue/config.yaml"),
        ("vibe", "Mistral Vibe", ".vibe/config.toml"),
        ("factory", "Factory", ".factory/mcp.json"),
        ("trae", "Trae", "{config}/Trae/User/mcp.json"),
        ("crush", "Crush", "{config}/crush/crush.json"),
        ("windsurf-jetbrains", "Windsurf for JetBrains", ".codeium/mcp_config.json"),
        ("copilot-jetbrains", "GitHub Copilot for JetBrains", "{config}/github-copilot/mcp.json"),
        ("zed", "Zed", "{config}/zed/settings.json"),
        ("lm-studio", "LM Studio", ".lmstudio/mcp.json"),
        ("junie", "Junie", ".junie/mcp/mcp.json"),
        ("amp", "Amp", "{config}/amp/settings.json"),
        ("kiro", "Kiro", ".kiro/settings/mcp.json"),
        ("qwen-code", "Qwen Code", ".qwen/settings.json"),
    )
)
IN_FOLDER = (
    ("claude-code", "Claude Code (this folder)", ".mcp.json"),
    ("cursor", "Cursor (this folder)", ".cursor/mcp.json"),
    ("vscode", "VS Code (this folder)", ".vscode/mcp.json"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """What a client's file has."""

    client: str
    title: str
    path: Path
    servers: Mapping[str, dict[str, Any]]
    """Entries in our shape, by valid names."""
    notes: tuple[Problem, ...]


def config_folder(home: Path) -> Path:
    """Where this system's programs keep their settings."""
    if sys.platform == "darwin":
        return home / "Library" / "Application Support"
    if sys.platform == "win32":
        return Path(os.environ.get("APPDATA") or home / "AppData" / "Roaming")
    return Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")


def find(home: Path | None = None, folder: Path | None = None) -> list[Import]:
    """Every client's file that has servers: in the home folder, and in a folder that is worked in.

    A name that an earlier file has is not taken from a later one: a repository's file does not replace the user's own.
    """
    found: list[Import] = []
    for client, title, path in candidates(home or Path.home(), folder):
        if not path.is_file():
            continue
        try:
            result = read(path, client=client, title=title)
        except ConfigError:
            continue
        if result.servers:
            found.append(without_taken(result, {name: item for item in found for name in item.servers}))
    return found


def without_taken(item: Import, taken: Mapping[str, Import]) -> Import:
    """The import without the servers whose names an earlier file has, and a note for each that differs from it."""
    notes = [
        Problem(file=str(item.path), message=f"the server {name!r} is left out: {taken[name].path} has one too")
        for name, entry in item.servers.items()
        if name in taken and taken[name].servers[name] != entry
    ]
    kept = {name: entry for name, entry in item.servers.items() if name not in taken}
    return replace(item, servers=kept, notes=(*item.notes, *notes))


def candidates(home: Path, folder: Path | None) -> Iterator[tuple[str, str, Path]]:
    config = config_folder(home) if home == Path.home() else home / ".config"
    for place in PLACES:
        base = config if place.path.startswith("{config}") else home
        yield place.client, place.title, base / place.path.removeprefix("{config}/")
    for client, title, path in IN_FOLDER:
        if folder is not None:
            yield client, title, folder / path


def read(path: Path, *, client: str = "file", title: str = "") -> Import:
    """The servers in a client's file, those of Stockade itself left out. Raises ConfigError."""
    value = read_value(path)
    document = Document(file=str(path), text="", value=value, is_json=True, spans={})
    found = [one for one in written(value, lists=True) if not is_built_in(one)] if isinstance(value, dict) else []
    adopted, notes = adopt_servers(document, found, trusted=False) if found else (document, [])
    notes += by_folder(document)
    servers = adopted.value["mcpServers"] if found else {}
    kept = {name: entry for name, entry in servers.items() if isinstance(entry, dict) and not is_ours(entry)}
    notes += [
        adopted.problem(("mcpServers", name, *finding.path), finding.message, finding.hint)
        for name, entry in kept.items()
        for finding in borrowed(entry)
    ]
    return Import(client=client, title=title or path.name, path=path, servers=kept, notes=tuple(notes))


def is_built_in(one: Written) -> bool:
    """Whether it is a part of the client itself (Goose)."""
    return isinstance(one.raw, Mapping) and one.raw.get("type") in (
        "builtin",
        "platform",
        "frontend",
        "inline_python",
    )


def by_folder(document: Document) -> Iterator[Problem]:
    """The servers that Claude Code keeps for single folders, which are not read."""
    projects = at(document.value, ("projects",))
    for folder, settings in projects.items() if isinstance(projects, Mapping) else ():
        if names := ", ".join(one.name for one in written(settings) if one.path[0] == "mcpServers"):
            message = f"the servers of the folder {folder} are not imported: {names}"
            hint = "To import them, move them into `mcpServers` at the top of this file, or into its .mcp.json"
            yield document.problem(("projects", folder, "mcpServers"), message, hint)


def borrowed(entry: Mapping[str, Any]) -> Iterator[Finding]:
    """What an entry asks for from this machine: variables of the gateway's environment, volumes of the engine."""
    try:
        server = Server.model_validate(entry)
        source, files = plan(server), read_files(server)
    except (Invalid, ValidationError):  # said, with its place, when the entry is added to the file
        return
    where = f"sent to {entry['url']}" if isinstance(source, RemoteSource) else "given to the server"
    given = source.headers if isinstance(source, RemoteSource) else source.env
    texts = [*given.values(), *([source.url] if isinstance(source, RemoteSource) else source.args)]
    for reference in dict.fromkeys(one for text in texts for one in references(text)):
        kind, _, name = reference.partition(":")
        what = f"the environment variable {name.partition(':-')[0]}" if kind == "env" else f"the secret {name!r}"
        yield Finding((), f"{what} of the gateway will be {where}", "Remove it if it should not be")
    for file in files:
        yield Finding(
            (), f"the variables in {file} will be given to the server", "Remove --env-file if they should not be"
        )
    if isinstance(source, ProjectSource):
        yield from shown(source)
    for mount in () if isinstance(source, RemoteSource) else source.mounts:
        if not mount.volume:
            changed = "shown to the server" if mount.read_only else "shown to the server, which may change it"
            yield Finding(
                (), f"{mount.source} will be {changed}", "Remove the option -v or --mount if it should not be"
            )
        elif not mount.storage:
            hint = f"For that one: {{source: {mount.source}, target: {mount.target}, accept: [foreign-volume]}} under mounts"
            yield Finding((), f"its volume {mount.source!r} will be a new one, not the engine's of that name", hint)


def shown(source: ProjectSource) -> Iterator[Finding]:
    """The folders of this machine that a program would be shown."""
    above = (
        "" if source.standalone else f"; where {MANIFESTS} lies in a folder above it, that whole folder may be too"
    )
    for folder in shown_folders(source):
        message = f"the folder {folder}, with all that is in it, will be shown to the server{above}"
        yield Finding((), message, "Remove the server if it should not be")


def read_value(path: Path) -> Any:
    text = read_text(path)
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError([Problem(file=str(path), message=f"is not TOML: {error}")]) from None
    return compose_json(text, str(path)) if path.suffix in (".json", ".jsonc") else parse(text, str(path)).value


def is_ours(entry: Mapping[str, Any]) -> bool:
    """Whether the entry is the client's connection to Stockade."""
    url = str(entry.get("url") or "")
    local = url.startswith(("http://127.0.0.1:842", "http://localhost:842"))
    return local or str(entry.get("command") or "").rpartition("/")[2] == "stockade"
