"""The AI clients that Stockade can configure: one row each. Everything that differs between them is data here.

Sources: each vendor's documentation and runs (`evidence`), as of the row's `verified_on`; `stacklok/toolhive`
pkg/client/config.go for the rest. Paths are templates over `{home}` and `{config}` (~/.config, ~/Library/Application
Support, %APPDATA%). When a client changes its format, only its row changes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from gateway.connect.entry import Credentials, Entry

ENV_VAR = "STOCKADE_TOKEN"
"""Where `stockade bridge` looks for its token."""


class Syntax(StrEnum):
    """How a client's file is written."""

    JSON = "json"
    """Also with comments and trailing commas; they are kept."""
    TOML = "toml"
    YAML = "yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One AI client."""

    name: str
    """What `stockade connect NAME` takes."""
    title: str
    syntax: Syntax = Syntax.JSON
    path: str
    """The user's file; on macOS and Windows `path_mac` and `path_windows` where they differ."""
    path_mac: str = ""
    path_windows: str = ""
    repo_path: str = ""
    """The file in a repository, where the client supports one."""
    container: tuple[str, ...] = ("mcpServers",)
    """Keys down to the object (or list, see `listed`) that holds the servers."""
    listed: bool = False
    """The servers are a list whose items carry their `name`."""
    entry: Entry
    """Makes the server's entry of an endpoint and a token."""
    detect: tuple[str, ...] = ()
    """Files or directories that show that the client is installed; default: the folder of its file."""
    program: str = ""
    """Its command on PATH: shows that it is installed."""
    variables: str = ""
    """How the file writes an environment variable, with `{}` for its name; empty where it cannot. Then the token
    itself is written, and the file made readable by its owner only."""
    writable: bool = True
    """False: only the snippet is printed."""
    note: str = ""
    verified_on: str
    """The month in which the row was last compared with its source."""
    evidence: str = "documentation"
    """`documentation`, or `run` where the real client connected through such an entry."""

    def file(
        self, home: Path | None = None, platform: str = sys.platform, environ: Mapping[str, str] = os.environ
    ) -> Path:
        """Where this client keeps its servers, for the user."""
        home = home or Path.home()
        template = {"darwin": self.path_mac, "win32": self.path_windows}.get(platform) or self.path
        if template.startswith("$"):
            variable, _, template = template[1:].partition("|")
            if named := environ.get(variable):
                return Path(named) / Path(template).name
        return Path(template.format(home=home, config=config_home(home, platform, environ)))

    def places(self, home: Path | None = None) -> list[Path]:
        """The paths that show that the client is installed."""
        home = home or Path.home()
        found = [Path(p.format(home=home, config=config_home(home))) for p in self.detect]
        return found or [self.file(home).parent]


def config_home(home: Path, platform: str = sys.platform, environ: Mapping[str, str] = os.environ) -> Path:
    """The directory for applications' settings."""
    match platform:
        case "darwin":
            return home / "Library/Application Support"
        case "win32":
            return Path(environ.get("APPDATA") or home / "AppData/Roaming")
        case _:
            return home / ".config"


def entry(url_key: str = "url", *, headers: str = "headers", **fixed: Any) -> Entry:
    """An entry `{…fixed, URL_KEY: endpoint, HEADERS: {Authorization: …}}`, fixed keys first."""

    def make(credentials: Credentials) -> dict[str, Any]:
        made = {**fixed, url_key: credentials.endpoint}
        if credentials.token:
            made[headers] = {"Authorization": f"Bearer {credentials.token}"}
        return made

    return make


def bridge(**fixed: Any) -> Entry:
    """An entry for clients that only speak stdio: `stockade bridge` connects it to the endpoint."""

    def make(credentials: Credentials) -> dict[str, Any]:
        made = {**fixed, "command": "stockade", "args": ["bridge", "--url", credentials.endpoint]}
        if credentials.token:
            made["env"] = {ENV_VAR: credentials.token}
        return made

    return make


def codex(credentials: Credentials) -> dict[str, Any]:
    """Codex takes the token from a variable (`bearer_token_env_var`); inline tokens only as `http_headers`."""
    made: dict[str, Any] = {"url": credentials.endpoint}
    if credentials.variable:
        made["bearer_token_env_var"] = credentials.variable
    elif credentials.token:
        made["http_headers"] = {"Authorization": f"Bearer {credentials.token}"}
    return made


def goose(credentials: Credentials) -> dict[str, Any]:
    """Goose wants the name again, and a timeout in seconds."""
    made = {
        "name": credentials.name,
        "type": "streamable_http",
        "uri": credentials.endpoint,
        "enabled": True,
        "timeout": 300,
    }
    if credentials.token:
        made["headers"] = {"Authorization": f"Bearer {credentials.token}"}
    return made


def continue_dev(credentials: Credentials) -> dict[str, Any]:
    """Continue keeps a list, and headers below `requestOptions`."""
    made: dict[str, Any] = {"name": credentials.name, "type": "streamable-http", "url": credentials.endpoint}
    if credentials.token:
        made["requestOptions"] = {"headers": {"Authorization": f"Bearer {credentials.token}"}}
    return made


def vibe(credentials: Credentials) -> dict[str, Any]:
    """Mistral Vibe keeps an array of tables."""
    made: dict[str, Any] = {"name": credentials.name, "transport": "streamable-http", "url": credentials.endpoint}
    if credentials.token:
        made["headers"] = {"Authorization": f"Bearer {credentials.token}"}
    return made


ROWS: tuple[Row, ...] = (
    Row(
        name="claude-code",
        title="Claude Code",
        path="{home}/.claude.json",
        repo_path=".mcp.json",
        entry=entry(type="http"),
        detect=("{home}/.claude.json", "{home}/.claude"),
        program="claude",
        variables="${{{}}}",
        verified_on="2026-11",
        evidence="run",
    ),
    Row(
        name="claude-desktop",
        title="Claude Desktop",
        path="{config}/Claude/claude_desktop_config.json",
        entry=bridge(),
        note="It speaks stdio only, so the entry starts `stockade bridge`.",
        verified_on="2026-08",
    ),
    Row(
        name="cursor",
        title="Cursor",
        path="{home}/.cursor/mcp.json",
        repo_path=".cursor/mcp.json",
        entry=entry(),
        program="cursor-agent",
        variables="${{env:{}}}",
        verified_on="2026-08",
    ),
    Row(
        name="vscode",
        title="VS Code (Copilot)",
        path="{config}/Code/User/mcp.json",
        repo_path=".vscode/mcp.json",
        container=("servers",),
        entry=entry(type="http"),
        program="code",
        verified_on="2026-08",
    ),
    Row(
        name="vscode-insiders",
        title="VS Code Insiders",
        path="{config}/Code - Insiders/User/mcp.json",
        container=("servers",),
        entry=entry(type="http"),
        program="code-insiders",
        verified_on="2026-08",
    ),
    Row(
        name="copilot-cli",
        title="GitHub Copilot CLI",
        path="{home}/.copilot/mcp-config.json",
        entry=entry(type="http", tools=["*"]),
        program="copilot",
        verified_on="2026-08",
    ),
    Row(
        name="windsurf",
        title="Windsurf",
        path="{home}/.codeium/windsurf/mcp_config.json",
        entry=entry("serverUrl"),
        variables="${{env:{}}}",
        verified_on="2026-08",
    ),
    Row(
        name="windsurf-jetbrains",
        title="Windsurf for JetBrains",
        path="{home}/.codeium/mcp_config.json",
        entry=entry("serverUrl"),
        detect=("{home}/.codeium/mcp_config.json",),
        variables="${{env:{}}}",
        verified_on="2026-08",
    ),
    Row(
        name="cline",
        title="Cline",
        path="{home}/.cline/data/settings/cline_mcp_settings.json",
        entry=entry(type="streamableHttp"),
        program="cline",
        verified_on="2026-08",
        evidence="run",
    ),
    Row(
        name="codex",
        title="Codex",
        syntax=Syntax.TOML,
        path="$CODEX_HOME|{home}/.codex/config.toml",
        repo_path=".codex/config.toml",
        container=("mcp_servers",),
        entry=codex,
        program="codex",
        variables="{}",
        verified_on="2026-11",
        evidence="run",
    ),
    Row(
        name="gemini-cli",
        title="Gemini CLI",
        path="{home}/.gemini/settings.json",
        repo_path=".gemini/settings.json",
        entry=entry(type="http"),
        detect=("{home}/.gemini/settings.json",),
        program="gemini",
        variables="${}",
        note="Servers are off in folders that it does not trust.",
        verified_on="2026-11",
        evidence="run",
    ),
    Row(
        name="antigravity",
        title="Antigravity",
        path="{home}/.gemini/config/mcp_config.json",
        entry=entry("serverUrl"),
        program="antigravity",
        verified_on="2026-08",
    ),
    Row(
        name="opencode",
        title="opencode",
        path="{home}/.config/opencode/opencode.json",
        path_windows="{home}/.config/opencode/opencode.json",
        repo_path="opencode.json",
        container=("mcp",),
        entry=entry(type="remote", enabled=True),
        program="opencode",
        variables="{{env:{}}}",
        note="Version 2 nests its servers below mcp.servers; where that key exists, it is used.",
        verified_on="2026-11",
        evidence="run",
    ),
    Row(
        name="goose",
        title="Goose",
        syntax=Syntax.YAML,
        path="{home}/.config/goose/config.yaml",
        path_windows="{config}/Block/goose/config/config.yaml",
        container=("extensions",),
        entry=goose,
        program="goose",
        verified_on="2026-08",
    ),
    Row(
        name="zed",
        title="Zed",
        path="{home}/.config/zed/settings.json",
        path_windows="{config}/Zed/settings.json",
        repo_path=".zed/settings.json",
        container=("context_servers",),
        entry=entry(),
        program="zed",
        verified_on="2026-08",
    ),
    Row(
        name="continue",
        title="Continue",
        syntax=Syntax.YAML,
        path="{home}/.continue/config.yaml",
        entry=continue_dev,
        listed=True,
        verified_on="2026-08",
    ),
    Row(
        name="lm-studio",
        title="LM Studio",
        path="{home}/.lmstudio/mcp.json",
        entry=entry(),
        program="lms",
        verified_on="2026-08",
    ),
    Row(
        name="junie",
        title="Junie (JetBrains)",
        path="{home}/.junie/mcp/mcp.json",
        repo_path=".junie/mcp/mcp.json",
        entry=bridge(),
        detect=("{home}/.junie",),
        note="Its documentation names stdio only, so the entry starts `stockade bridge`.",
        verified_on="2026-08",
    ),
    Row(
        name="jetbrains",
        title="JetBrains AI Assistant",
        path="{home}/.config/JetBrains",
        path_mac="{config}/JetBrains",
        path_windows="{config}/JetBrains",
        detect=("{config}/JetBrains",),
        entry=entry(),
        writable=False,
        note="Paste it under Settings | Tools | AI Assistant | Model Context Protocol.",
        verified_on="2026-08",
    ),
    Row(
        name="copilot-jetbrains",
        title="GitHub Copilot for JetBrains",
        path="{home}/.config/github-copilot/mcp.json",
        container=("servers",),
        entry=entry(type="http"),
        verified_on="2026-08",
    ),
    Row(
        name="amp",
        title="Amp",
        path="{home}/.config/amp/settings.json",
        container=("amp.mcpServers",),
        entry=entry(),
        program="amp",
        verified_on="2026-08",
    ),
    Row(
        name="kiro",
        title="Kiro",
        path="{home}/.kiro/settings/mcp.json",
        repo_path=".kiro/settings/mcp.json",
        entry=entry(),
        detect=("{home}/.kiro",),
        verified_on="2026-08",
    ),
    Row(
        name="qwen-code",
        title="Qwen Code",
        path="{home}/.qwen/settings.json",
        entry=entry("httpUrl"),
        program="qwen",
        variables="${}",
        verified_on="2026-11",
        evidence="run",
    ),
    Row(
        name="vibe",
        title="Mistral Vibe",
        syntax=Syntax.TOML,
        path="{home}/.vibe/config.toml",
        container=("mcp_servers",),
        listed=True,
        entry=vibe,
        program="vibe",
        verified_on="2026-08",
    ),
    Row(
        name="factory",
        title="Factory",
        path="{home}/.factory/mcp.json",
        entry=entry(type="http"),
        program="droid",
        verified_on="2026-08",
    ),
    Row(
        name="trae",
        title="Trae",
        path="{config}/Trae/User/mcp.json",
        entry=entry(),
        verified_on="2026-08",
    ),
    Row(
        name="crush",
        title="Crush",
        path="{home}/.config/crush/crush.json",
        repo_path="crush.json",
        container=("mcp",),
        entry=entry(type="http"),
        program="crush",
        verified_on="2026-08",
    ),
    Row(
        name="roo-code",
        title="Roo Code",
        path="{config}/Code/User/globalStorage/rooveterinaryinc.roo-cline/settings/mcp_settings.json",
        entry=entry(type="streamable-http"),
        writable=False,
        note="Retired on 2026-05-15: `stockade import` reads its file, nothing writes it.",
        verified_on="2026-08",
    ),
)

BY_NAME: Mapping[str, Row] = {row.name: row for row in ROWS}
