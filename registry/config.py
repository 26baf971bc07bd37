"""The configuration: its models, and `load_config`, which reads a file into them or says everything that is wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PrivateAttr, ValidationError, field_validator, model_validator

from registry.document import Document, parse, read_text
from registry.errors import ConfigError, Invalid, KeyPath, Problem, render_path
from registry.fields import FilePath, Name, Sessions, Start, Transport, check_name
from registry.mounts import Mount
from registry.network import Network
from registry.server import Frozen, Server, ToolRules
from registry.settings import (
    Clients,
    ClientSettings,
    EgressSettings,
    GatewaySettings,
    SchemaVersion,
)

__all__ = [
    "ClientSettings",
    "Config",
    "ConfigError",
    "EgressSettings",
    "GatewaySettings",
    "Mount",
    "Network",
    "Problem",
    "Server",
    "Sessions",
    "Start",
    "ToolRules",
    "Transport",
    "load_config",
    "load_text",
    "project_name",
]


class Config(Frozen):
    """A whole configuration file."""

    version: SchemaVersion = 1
    """The format's version: 1."""
    project: Annotated[str, AfterValidator(check_name)] | None = None
    """The name that everything of this file carries on the engine. Default: made from the file's path."""
    gateway: GatewaySettings = GatewaySettings()
    """The gateway's own settings."""
    egress: EgressSettings = EgressSettings()
    """How the egress reaches the outside."""
    extra_ca: FilePath | None = None
    """A PEM file of certificate authorities that the servers trust besides the usual ones."""
    servers: Mapping[Name, Server] = Field(default={}, alias="mcpServers")
    """The MCP servers, by name."""
    clients: Clients = {}
    """The AI clients, by name. While there is none, everybody on this machine may connect."""

    _path: Path | None = PrivateAttr(None)
    _document: Document | None = PrivateAttr(None)
    _warnings: tuple[Problem, ...] = PrivateAttr(())

    @model_validator(mode="before")
    @classmethod
    def refuse_servers(cls, data: Any) -> Any:
        """`servers` is VS Code's word (and this model's own in Python); in our file it would be a second spelling."""
        if isinstance(data, dict) and isinstance(data.get("servers"), dict) and data.keys() & {"mcpServers"}:
            raise Invalid("stands beside `mcpServers`", "Keep `mcpServers`", path=("servers",))
        return data

    @field_validator("version")
    @classmethod
    def check_version(cls, version: int) -> int:
        if version != 1:
            raise Invalid(
                f"{version} is not a version this Stockade knows", "Write version: 1, or install a newer one"
            )
        return version

    @property
    def path(self) -> Path | None:
        """The file it was read from; None when it was made in memory."""
        return self._path

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is allowed but worth knowing, in file order."""
        return self._warnings

    @property
    def text(self) -> str:
        """The file as it was read; empty when it was made in memory."""
        return self._document.text if self._document else ""

    @property
    def document(self) -> Document | None:
        """The parsed file that it was made of; None when it was made in memory."""
        return self._document

    def problem(self, path: KeyPath, message: str, hint: str = "") -> Problem:
        """A problem at a place of this configuration, with file, line and column when it was read from a file."""
        if self._document is None:
            return Problem(key_path=render_path(path), message=message, hint=hint)
        return self._document.problem(path, message, hint)

    def visible_servers(self, client: str) -> tuple[str, ...]:
        """The servers that a client of this name may see, in file order; disabled ones are left out."""
        settings = self.clients.get(client)
        wanted = settings.servers if settings else "*"
        return tuple(
            name for name, server in self.servers.items() if not server.disabled and (wanted == "*" or name in wanted)
        )


def project_name(config: Config, path: Path | None = None) -> str:
    """The project's name: as the file says, else eight hex digits of the file's absolute path."""
    where = path or config.path
    if config.project is not None or where is None:
        return config.project or "default"
    return hashlib.sha256(str(where.absolute()).encode()).hexdigest()[:8]


def load_config(path: Path | str) -> Config:
    """The configuration in a YAML or JSON file. Raises ConfigError with all problems."""
    path = Path(path)
    return load_text(read_text(path), path)


def load_text(text: str, path: Path | str) -> Config:
    """The configuration in `text`, as if it stood in the file `path`. Raises ConfigError with all problems."""
    path = Path(path)
    return build(parse(text, str(path)), path)


def build(document: Document, path: Path) -> Config:
    """The configuration in a parsed file. Raises ConfigError with all problems, in file order."""
    from registry.checks import check_document, warn
    from registry.importers.adopt import adopt, is_foreign

    check_document(document)
    foreign = is_foreign(document)
    document, notes = adopt(document)
    config, problems = examine(document, path)
    while foreign and (broken := servers_in(problems)):
        document, left_out = leave_out(document, broken, problems)
        notes += left_out
        config, problems = examine(document, path)
    if problems or config is None:
        raise ConfigError(in_order(problems))
    config._path, config._document = path.absolute(), document
    config._warnings = in_order([*notes, *warn(config, document)])
    return config


def examine(document: Document, path: Path) -> tuple[Config | None, list[Problem]]:
    """The configuration (as much of it as holds), and every problem in it."""
    from registry.checks import check_config

    config, problems = validate(document, path.absolute().parent)
    return config, problems + (check_config(config, document, path) if config else [])


def in_order(problems: list[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(dict.fromkeys(problems), key=lambda problem: (problem.line, problem.column)))


def servers_in(problems: list[Problem]) -> set[str]:
    """The servers that the problems are about. (A name of a server has no dot.)"""
    parts = [problem.key_path.split(".") for problem in problems]
    return {path[1] for path in parts if path[0] == "mcpServers" and len(path) > 1}


def leave_out(document: Document, names: set[str], problems: list[Problem]) -> tuple[Document, list[Problem]]:
    """A client's file without the servers that cannot run behind a wall, and a warning for each reason."""
    kept = {name: entry for name, entry in document.value["mcpServers"].items() if name not in names}
    notes = [
        replace(problem, message=f"this server is left out: {problem.message}")
        for problem in problems
        if servers_in([problem])
    ]
    return replace(document, value={**document.value, "mcpServers": kept}), notes


def validate(document: Document, base: Path) -> tuple[Config | None, list[Problem]]:
    """The configuration and no problems; or the problems, and what of it holds without the faulty parts."""
    from registry.problems import locate, problems_of

    raw = document.value
    try:
        return Config.model_validate(raw, context={"base": base}), []
    except ValidationError as error:
        problems = problems_of(error, raw, document)
        sound = without(raw, [locate(item["loc"], raw) for item in error.errors(include_url=False)])
    try:
        return Config.model_validate(sound, context={"base": base}), problems
    except ValidationError:
        return None, problems


def without(raw: dict[str, Any], paths: list[KeyPath]) -> dict[str, Any]:
    """The raw configuration without each section, server or client that one of the paths leads into."""
    pruned = {key: dict(value) if isinstance(value, dict) else value for key, value in raw.items()}
    for path in paths:
        match path:
            case ("mcpServers" | "clients" as section, name, *_) if isinstance(pruned.get(str(section)), dict):
                pruned[str(section)].pop(name, None)
            case (section, *_):
                pruned.pop(str(section), None)
            case _:
                return {}
    return pruned
