"""Converts one server's entry in an AI client's file to ours. Pure.

Clients add keys of their own, spell the same thing in several ways, and each has its own notation for variables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import ValidationError

from registry.model.errors import Finding, Invalid
from registry.model.fields import Origin
from registry.model.nearest import nearest_key
from registry.model.references import FILLED, REFERENCE
from registry.model.server import Server
from registry.model.sources import ProjectSource
from registry.model.spec import plan

DROPPED = frozenset(
    "autoApprove alwaysAllow timeout trust gallery version name description icon iconPath id source metadata presets"
    " dev watch oauth requestOptions startup_timeout_sec startup_timeout_ms tool_timeout_sec initTimeout runtime"
    " enableToolChoice bundled sandboxEnabled sandbox headersHelper approval required scope scopes display_name".split()
)
"""Keys that configure the client, not the server."""
UNREAD = {
    "envFile": "the file's variables are not read; write them under `env`",
    "env_file": "the file's variables are not read; write them under `env`",
    "available_tools": "say which tools are shown under `tools`",
    "env_keys": "its key ring is not read; pass each variable under `env`",
    "env_vars": "pass each variable under `env`, as ${env:NAME}",
}
RENAMED = {
    "serverUrl": "url",
    "httpUrl": "url",
    "uri": "url",
    "environment": "env",
    "envs": "env",
    "http_headers": "headers",
    "cmd": "command",
    "workingDirectory": "cwd",
    "working_directory": "cwd",
    "workdir": "cwd",
    "transportType": "type",
    "transport_type": "type",
}
KNOWN = frozenset(field.alias or name for name, field in Server.model_fields.items()) | {"transport"}
CLIENTS_OWN = frozenset({"type", "transport", "command", "args", "url", "headers", "env", "cwd", "disabled"})
"""What clients' files say in the same words as ours; the rest of KNOWN is Stockade's alone."""


@dataclass(frozen=True, slots=True)
class Imported:
    """An entry in our shape, and remarks about it (paths relative to the entry)."""

    entry: dict[str, Any]
    notes: tuple[Finding, ...]


def convert(raw: Mapping[str, Any], *, variables: Mapping[str, str] | None = None, trusted: bool = True) -> Imported:
    """The entry in our shape; `variables` are values for `${workspaceFolder}` and the like.

    A file that is not `trusted` (it is imported, not used as the configuration) may come with a repository: it decides
    how a server is run and nothing that Stockade grants, so our own keys and references to our secrets are ignored. No
    client's file runs a program on this machine by `${command:…}`, trusted or not: such files lie in any folder.
    """
    notes: list[Finding] = []
    entry: dict[str, Any] = {}
    for key, value in raw.items():
        if value is not None:
            take(RENAMED.get(key, key), key, value, entry, notes, trusted=trusted)
    tool_lists(raw, entry)
    split_command(entry)
    bearer(raw, entry)
    if entry.get("url") and entry.get("type") == "stdio":
        del entry["type"]
    known = variables or {}
    for key in ("env", "headers", "args", "url", "command", "cwd"):
        if key in entry:
            change = partial(translate, variables=known, key=key, notes=notes, trusted=trusted)
            entry[key] = deep(entry[key], change)
    working_folder(raw, entry, known, notes)
    for key in (FILLED - {"env", "headers", "args", "url"}) & entry.keys():
        entry[key] = deep(entry[key], partial(without_commands, key=key, notes=notes))
    return Imported(entry, tuple(notes))


def take(
    key: str, written: str, value: Any, entry: dict[str, Any], notes: list[Finding], *, trusted: bool = True
) -> None:
    """Puts one key into the entry, or notes why not."""
    if key in ("enabled", "disabled") and isinstance(value, bool):
        if value is (key == "disabled"):
            entry["disabled"] = True
    elif (key == "tools" and not isinstance(value, dict)) or (key == "source" and value not in list(Origin)):
        return  # words of theirs for something else
    elif key in KNOWN and (trusted or key in CLIENTS_OWN):
        entry[key] = value
    elif key in KNOWN:
        message = f"left out: {written!r} is a setting of Stockade's own, which an imported file may not set"
        notes.append(Finding((written,), message, "To apply it, set it in stockade.yaml"))
    elif key in UNREAD:
        notes.append(Finding((written,), f"{written!r} has no effect: {UNREAD[key]}"))
    elif key not in DROPPED and key not in TOOL_KEYS and key not in BEARER_KEYS:
        if trusted and nearest_key(key, sorted(KNOWN)):
            entry[key] = value  # the check of the configuration then says what was probably meant
        else:
            notes.append(Finding((written,), f"unknown key {written!r} has no effect"))


def working_folder(
    raw: Mapping[str, Any], entry: dict[str, Any], variables: Mapping[str, str], notes: list[Finding]
) -> None:
    """`cwd` counts for a program of this machine, from the client's own folder on; for all else it has no effect."""
    if not isinstance(folder := entry.get("cwd"), str):
        return
    if variables.get("workspaceFolder") and not folder.startswith("${env:"):
        entry["cwd"] = os.path.join(variables["workspaceFolder"], os.path.expanduser(folder))
    if takes_folder(entry):
        return
    del entry["cwd"]
    written = next(key for key in raw if RENAMED.get(key, key) == "cwd")
    message = f"{written!r} has no effect: the server starts in its container's own folder"
    notes.append(Finding((written,), message, "What it needs of this machine is shown to it by `mounts`"))


def takes_folder(entry: Mapping[str, Any]) -> bool:
    """Whether what an entry runs starts in a folder of this machine. True as well where that is not known."""
    try:
        server = Server.model_validate(
            {key: entry[key] for key in ("command", "args") if key in entry} | {"cwd": "/"}
        )
        return isinstance(plan(server), ProjectSource)
    except Invalid as error:
        return ("cwd",) not in [finding.path for finding in error.findings]
    except ValidationError:
        return not entry.get("url") and not entry.get("image")


TOOL_KEYS = {
    "includeTools": "allow",
    "enabledTools": "allow",
    "enabled_tools": "allow",
    "excludeTools": "deny",
    "disabledTools": "deny",
    "disabled_tools": "deny",
    "tools": "allow",
}
BEARER_KEYS = ("bearer_token_env_var", "env_http_headers", "bearerTokenEnvVar")


def tool_lists(raw: Mapping[str, Any], entry: dict[str, Any]) -> None:
    """Lists of tools to show or hide become our `tools`; `["*"]` is what we do anyway."""
    for key, kind in TOOL_KEYS.items():
        names = raw.get(key)
        if isinstance(names, list) and names != ["*"] and (names or kind == "allow"):
            rules = entry.setdefault("tools", {})
            rules.setdefault(kind, []).extend(names)


def split_command(entry: dict[str, Any]) -> None:
    """A command that is a list has its arguments in it; one that is a mapping (Zed) has its variables in it too."""
    command = entry.get("command")
    if isinstance(command, Mapping):
        inner = {"command": command.get("path"), "args": command.get("args"), "env": command.get("env")}
        entry |= {key: value for key, value in inner.items() if value is not None}
        command = entry.get("command")
    if isinstance(command, list) and command:
        entry["command"], rest = command[0], command[1:]
        entry["args"] = [*rest, *entry.get("args", [])]


def bearer(raw: Mapping[str, Any], entry: dict[str, Any]) -> None:
    """Codex names the variable that holds the token, and variables for headers."""
    name = raw.get("bearer_token_env_var") or raw.get("bearerTokenEnvVar")
    if isinstance(name, str):
        entry["headers"] = {**entry.get("headers", {}), "Authorization": f"Bearer ${{env:{name}}}"}
    if isinstance(named := raw.get("env_http_headers"), dict):
        more = {header: f"${{env:{variable}}}" for header, variable in named.items()}
        entry["headers"] = {**entry.get("headers", {}), **more}


def deep(value: Any, change: Callable[[str], str]) -> Any:
    """The value with every text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: deep(item, change) for key, item in value.items()}
    return [deep(item, change) for item in value] if isinstance(value, list) else value


ANY = re.compile(
    r"\$?\{(?P<kind>input|env|secret):(?P<name>[^{}]+)\}|\$\{(?P<plain>[^{}]*)\}|^\$(?P<whole>[A-Za-z_]\w*)$"
)


def translate(
    text: str, variables: Mapping[str, str], key: str, notes: list[Finding], *, trusted: bool = True
) -> str:
    """The text with each client's notation of variables in ours."""

    def change(match: re.Match[str]) -> str:
        if match["kind"] == "secret" and not trusted:
            message = f"names the secret {match['name']!r} of Stockade, which no client knows; it stays plain text"
            hint = f"If the server may have it, write ${{secret:{match['name']}}} in stockade.yaml"
            notes.append(Finding((key,), message, hint))
            return f"${match.group()}" if match.group().startswith("$") else match.group()
        if match["kind"] == "input":
            name = re.sub(r"[^A-Za-z0-9_.-]", "-", match["name"])
            notes.append(Finding((key,), f"${{input:{match['name']}}} is read as the secret {name!r}"))
            return f"${{secret:{name}}}"
        if match["kind"]:
            return f"${{{match['kind']}:{match['name']}}}"
        if (match["plain"] or "").startswith("command:"):
            return refused_command(match.group(), key, notes)
        plain = match["plain"] if match["plain"] is not None else match["whole"]
        if plain in variables:
            return variables[plain]
        if re.fullmatch(r"[A-Za-z_]\w*(:-.*)?", plain):
            return f"${{env:{plain}}}"
        return "$" + match.group()

    return ANY.sub(change, text)


def without_commands(text: str, key: str, notes: list[Finding]) -> str:
    """The text with each `${command:…}` as literal text."""

    def change(match: re.Match[str]) -> str:
        is_command = (match[1] or "").startswith("command:")
        return refused_command(match[0], key, notes) if is_command else match[0]

    return REFERENCE.sub(change, text)


def refused_command(written: str, key: str, notes: list[Finding]) -> str:
    """A reference to a command as literal text, with a remark."""
    message = f"{written} would run a program on this machine, which no client's file may; it stays plain text"
    notes.append(Finding((key,), message, "If it is yours, write it in stockade.yaml"))
    return f"${written}"
