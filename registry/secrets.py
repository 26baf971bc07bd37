"""Fills in `${secret:NAME}` and `${env:NAME}` at the moment a server starts; a value is never printed or stored.

A secret is looked for in the environment (`STOCKADE_SECRET_NAME`), then in a file of its own
(`~/.config/stockade/secrets/NAME`, readable by its owner only), then, where the `keyring` extra is installed, in
the system's key ring. `$${` stands for a literal `${`.
"""

from __future__ import annotations

import importlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.config import Config
from registry.file.document import walk
from registry.model.errors import ConfigError, KeyPath, Problem, render_path
from registry.model.references import ENV_NAME, FILLED, REFERENCE, SECRET_NAME, check_references, from_own, references
from registry.model.server import Server

MAX_BYTES = 64 * 1024


class SecretError(ConfigError):
    """Raised when a reference cannot be filled in; each problem names the reference and its place, never a value."""


def default_folder() -> Path:
    """The folder of the secret files: `$STOCKADE_SECRETS_DIR`, else below the configuration folder."""
    if given := os.environ.get("STOCKADE_SECRETS_DIR"):
        return Path(given)
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "stockade" / "secrets"


def variable(name: str) -> str:
    """The environment variable that can hold the secret."""
    return "STOCKADE_SECRET_" + re.sub(r"[^A-Za-z0-9]", "_", name).upper()


def keyring_lookup(name: str) -> str | None:
    """The secret from the system's key ring; None where there is none, or no key ring."""
    try:
        keyring: Any = importlib.import_module("keyring")
        errors: Any = importlib.import_module("keyring.errors")
    except ImportError:
        return None
    try:
        value: str | None = keyring.get_password("stockade", name)
    except errors.KeyringError:
        return None
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretStore:
    """Where secrets come from."""

    env: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    folder: Path = field(default_factory=default_folder)
    keyring: Callable[[str], str | None] | None = keyring_lookup

    def lookup(self, name: str) -> str | None:
        """The secret's value, or None. Raises SecretError for a file that others could read."""
        if (value := self.env.get(variable(name))) is not None:
            return value
        if (value := self.from_file(name)) is not None:
            return value
        return self.keyring(name) if self.keyring else None

    def from_file(self, name: str) -> str | None:
        path = self.folder / name
        try:
            with path.open("rb") as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    hint = f"Run: chmod 600 {path}"
                    raise SecretError([Problem(file=str(path), message="can be read by others", hint=hint)])
                data = file.read(MAX_BYTES + 1)
        except OSError:
            return None
        if len(data) > MAX_BYTES:
            raise SecretError([Problem(file=str(path), message=f"is larger than {MAX_BYTES} bytes")])
        return data.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")

    def set(self, name: str, value: str) -> Path:
        """Stores a secret in its file, readable by its owner only; returns the file's path.

        Raises SecretError for an invalid name or size, or a folder that cannot be written.
        """
        path = self._path(name)
        if len(value.encode("utf-8", "surrogateescape")) > MAX_BYTES:
            raise SecretError([Problem(message=f"the secret {name!r} is larger than {MAX_BYTES} bytes")])
        try:
            self._write(path, value)
        except OSError as error:
            raise SecretError([Problem(file=str(path), message=f"cannot be written: {error.strerror}")]) from error
        return path

    def remove(self, name: str) -> None:
        """Removes a secret's file. Raises SecretError when there is none."""
        path = self._path(name)
        try:
            path.unlink()
        except FileNotFoundError:
            hint = "Set one with `stockade secret set`"
            raise SecretError([Problem(message=f"there is no secret {name!r} in {self.folder}", hint=hint)]) from None
        except OSError as error:
            raise SecretError([Problem(file=str(path), message=f"cannot be removed: {error.strerror}")]) from error

    def _path(self, name: str) -> Path:
        if not SECRET_NAME.fullmatch(name):
            hint = "Use letters, digits, _, . and -"
            raise SecretError([Problem(message=f"{name!r} cannot be a secret's name", hint=hint)])
        return self.folder / name

    def _write(self, path: Path, value: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=".new-")
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(value)
        Path(temporary).replace(path)

    def resolve(self, values: Mapping[str, str], where: KeyPath = ()) -> dict[str, str]:
        """The values with their references filled in. Raises SecretError with every one that is missing."""
        problems: list[Problem] = []
        resolved: dict[str, str] = {}
        for key, text in values.items():
            try:
                resolved[key] = self.resolve_text(text, (*where, key))
            except SecretError as error:
                problems += error.problems
        if problems:
            raise SecretError(problems)
        return resolved

    def resolve_list(self, values: Sequence[str], where: KeyPath = ()) -> tuple[str, ...]:
        """As `resolve`, for a list such as a server's arguments."""
        found = self.resolve({str(index): text for index, text in enumerate(values)}, where)
        return tuple(found.values())

    def resolve_text(self, text: str, where: KeyPath = ()) -> str:
        """The text with its references filled in. Raises SecretError with every one that is missing."""
        problems: list[Problem] = []

        def fill(match: re.Match[str]) -> str:
            reference: str | None = match[1]
            return "${" if reference is None else self.value(reference, where, problems) or ""

        filled = REFERENCE.sub(fill, text)
        if problems:
            raise SecretError(problems)
        return filled

    def value(self, reference: str, where: KeyPath, problems: list[Problem]) -> str | None:
        if finding := check_references(f"${{{reference}}}"):
            problems.append(Problem(key_path=render_path(where), message=finding.message, hint=finding.hint))
            return None
        kind, _, name = reference.partition(":")
        if kind == "secret":
            return self.secret_value(name, where, problems)
        match = ENV_NAME.fullmatch(name)
        assert match is not None  # check_references has seen it
        default: str | None = match[2]
        found = self.env.get(match[1]) or default
        if found is None:
            message, hint = f"the environment variable {match[1]} is not set", f"Set it: export {match[1]}=…"
            problems.append(Problem(key_path=render_path(where), message=message, hint=hint))
        return found

    def secret_value(self, name: str, where: KeyPath, problems: list[Problem]) -> str | None:
        try:
            found = self.lookup(name)
        except SecretError as error:
            problems += error.problems
            return None
        if found is None:
            problems.append(
                Problem(
                    key_path=render_path(where), message=f"the secret {name!r} is not set", hint=self.how_to(name)
                )
            )
        return found

    def how_to(self, name: str) -> str:
        """The hint that says how to set a secret."""
        return f"Run: stockade secret set {name} (or set {variable(name)} where Stockade runs)"

    def missing(self, config: Config) -> list[Problem]:
        """A problem, with its line, for each reference of a server in use or of the egress that cannot be filled in."""
        problems = []
        for name, server in config.servers.items():
            if server.disabled:
                continue
            for path, text in walk(with_references(server)):
                where: KeyPath = ("mcpServers", name, *path)
                own = {} if path[0] in ("env", "headers", "auth") else server.env
                try:
                    self.resolve_text(from_own(text, own), where)
                except SecretError as error:
                    problems += [config.problem(where, item.message, item.hint) for item in error.problems]
        try:
            self.resolve_text(config.egress.upstream_proxy or "")
        except SecretError as error:
            at = ("egress", "upstream_proxy")
            problems += [config.problem(at, item.message, item.hint) for item in error.problems]
        return problems


def needed_by(config: Config, name: str) -> list[str]:
    """The servers whose entries name the secret."""
    return [
        server
        for server, entry in config.servers.items()
        if any(f"secret:{name}" in references(text) for _, text in walk(with_references(entry)))
    ]


def with_references(server: Server) -> dict[str, Any]:
    """The parts of an entry that may hold references."""
    return server.model_dump(mode="json", include=set(FILLED))
