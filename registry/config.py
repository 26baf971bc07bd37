"""The whole configuration file as one model. `registry.load` reads a file into it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PrivateAttr, field_validator, model_validator

from registry.file.document import Document
from registry.model.errors import Invalid, KeyPath, Problem, render_path
from registry.model.fields import FilePath, Name, check_name
from registry.model.server import Frozen, Server
from registry.model.settings import (
    Clients,
    EgressSettings,
    GatewaySettings,
    SchemaVersion,
)


class Config(Frozen):
    """A whole configuration file."""

    version: SchemaVersion = 1
    """The format's version: 1."""
    project: Annotated[str, AfterValidator(check_name)] | None = None
    """The name that containers, networks and volumes of this file have on the engine. Default: made from the file's path."""
    gateway: GatewaySettings = GatewaySettings()
    """The gateway's own settings."""
    egress: EgressSettings = EgressSettings()
    """How the egress reaches the outside."""
    extra_ca: FilePath | None = None
    """A PEM file of certificate authorities that the servers trust besides the public ones."""
    servers: Mapping[Name, Server] = Field(default={}, alias="mcpServers")
    """The MCP servers, by name."""
    clients: Clients = {}
    """The AI clients, by name. While there is none, every program on this machine may connect."""

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
        """The parsed file it was made from; None when it was made in memory."""
        return self._document

    def problem(self, path: KeyPath, message: str, hint: str = "") -> Problem:
        """A problem at a key of this configuration, with file, line and column when it was read from a file."""
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
