"""Fills in `${secret:NAME}`, `${env:NAME}` and `${command:…}` when a server starts; a value is never printed or logged.

`registry.secrets.places` says where a secret is looked for. `$${` stands for a literal `${`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from registry.config import Config
from registry.file.document import walk
from registry.model.errors import KeyPath, Problem, render_path
from registry.model.references import ENV_NAME, REFERENCE, SECRET_NAME, check_references, from_own
from registry.secrets.command import CommandFailed, run
from registry.secrets.errors import MAX_BYTES, SecretError
from registry.secrets.folders import SecretFolder, default_folder, filled_folders
from registry.secrets.places import NoKeyRing, Place, Store, keyring_lookup, keyring_remove, keyring_set, variable
from registry.secrets.uses import with_references
from registry.secrets.vault import Vault


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretStore:
    """Where secrets come from: all stores, in the order in which they are asked."""

    env: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    folder: Path = field(default_factory=default_folder)
    keyring: Callable[[str], str | None] | None = keyring_lookup
    vault: Vault = field(default_factory=Vault)
    filled: tuple[Path, ...] = field(default_factory=filled_folders)
    """Folders of secrets that others fill."""

    def __post_init__(self) -> None:
        """Takes the passphrase out of the environment, before any program is started."""
        self.vault.keys.passphrase()

    # -- the stores

    def places(self) -> list[Place]:
        """The stores, in the order in which they are asked."""
        own = SecretFolder(self.folder, own=True)
        found = [
            Place(
                store=Store.ENVIRONMENT,
                where="the environment of Stockade",
                get=lambda name: self.env.get(variable(name)),
                names=list,
            ),
            Place(store=Store.FOLDER, where=str(self.folder), get=own.get, names=own.names),
        ]
        if self.keyring is not None:
            found.append(Place(store=Store.KEY_RING, where=KEY_RING, get=self.keyring, names=list))
        vault = self.vault
        found.append(Place(store=Store.ENCRYPTED, where=str(vault.path), get=vault.get, names=vault.names))
        for path in self.filled:
            folder = SecretFolder(path)
            found.append(Place(store=Store.SYSTEM, where=str(path), get=folder.get, names=folder.names))
        return found

    def lookup(self, name: str) -> str | None:
        """The secret's value from the first store that has it, or None. Raises SecretError for a store that has it and
        cannot give it."""
        for place in self.places():
            if (value := place.get(name)) is not None:
                return value
        return None

    def origins(self, name: str) -> list[Place]:
        """The stores that have the secret, the one that counts first. Asks for no value where a store can list its names.
        Raises SecretError."""
        return [
            place
            for place in self.places()
            if name in place.names() or (place.store in UNLISTED and place.get(name) is not None)
        ]

    def names(self) -> list[str]:
        """All names that the stores can list. Raises SecretError."""
        return sorted({name for place in self.places() for name in place.names()})

    def set(self, name: str, value: str, store: Store | None = None) -> str:
        """Stores a secret; returns where, for people. Without `store`: in the encrypted file where there is one or a key for
        one, else in a file of its own.

        Raises SecretError for an invalid name or size, or a store that cannot be written.
        """
        self._check(name)
        if len(value.encode("utf-8", "surrogateescape")) > MAX_BYTES:
            raise SecretError([Problem(message=f"the secret {name!r} is larger than {MAX_BYTES} bytes")])
        into = store or self.default()
        if into is Store.ENCRYPTED:
            self.vault.set(name, value)
            return str(self.vault.path)
        if into is Store.KEY_RING:
            try:
                keyring_set(name, value)
            except NoKeyRing as error:
                hint = "Use --in encrypted, or --in folder"
                raise SecretError([Problem(message=f"the system's key ring {error}", hint=hint)]) from None
            return KEY_RING
        return str(SecretFolder(self.folder, own=True).set(name, value))

    def default(self) -> Store:
        """Where a secret is stored if nothing else is said."""
        return Store.ENCRYPTED if self.vault.exists or self.vault.keys.given else Store.FOLDER

    def remove(self, name: str) -> list[str]:
        """Removes a secret from the stores that Stockade writes; returns from where.

        Raises SecretError when there is none.
        """
        self._check(name)
        removed = [str(self.folder / name)] if SecretFolder(self.folder, own=True).remove(name) else []
        if self.keyring is not None and keyring_remove(name):
            removed.append(KEY_RING)
        if self.vault.exists and self.vault.remove(name):
            removed.append(str(self.vault.path))
        if not removed:
            hint = "Set one with `stockade secret set`"
            elsewhere = [place.where for place in self.origins(name)]
            if elsewhere:
                hint = f"It comes from {elsewhere[0]}, which Stockade does not write: remove it there"
            raise SecretError([Problem(message=f"there is no secret {name!r} in {self.folder}", hint=hint)])
        return removed

    def _check(self, name: str) -> None:
        if not SECRET_NAME.fullmatch(name):
            hint = "Use letters, digits, _, . and -"
            raise SecretError([Problem(message=f"{name!r} cannot be a secret's name", hint=hint)])

    # -- filling in

    def resolve(self, values: Mapping[str, str], where: KeyPath = (), *, commands: bool = True) -> dict[str, str]:
        """The values with their references filled in; each command runs once, for up to ten seconds (call it in a thread).
        Without `commands` none runs, and their references stay as they are.

        Raises SecretError with every one that is missing.
        """
        filling = Filling(self, commands=commands)
        resolved = {key: filling.text(text, (*where, key)) for key, text in values.items()}
        if filling.problems:
            raise SecretError(filling.problems)
        return resolved

    def resolve_list(self, values: Sequence[str], where: KeyPath = ()) -> tuple[str, ...]:
        """As `resolve`, for a list such as a server's arguments."""
        found = self.resolve({str(index): text for index, text in enumerate(values)}, where)
        return tuple(found.values())

    def resolve_text(self, text: str, where: KeyPath = (), *, commands: bool = True) -> str:
        """The text with its references filled in. Raises SecretError with every one that is missing."""
        filling = Filling(self, commands=commands)
        filled = filling.text(text, where)
        if filling.problems:
            raise SecretError(filling.problems)
        return filled

    def how_to(self, name: str) -> str:
        """The hint that says how to set a secret."""
        return f"Run: stockade secret set {name} (or set {variable(name)} where Stockade runs)"

    def missing(self, config: Config) -> list[Problem]:
        """A problem, with its line, for each reference of a server in use or of the egress that cannot be filled in; no
        command is run."""
        problems = []
        for name, server in config.servers.items():
            if server.disabled:
                continue
            for path, text in walk(with_references(server)):
                where: KeyPath = ("mcpServers", name, *path)
                own = {} if path[0] in ("env", "headers", "auth", "secret_files") else server.env
                try:
                    self.resolve_text(from_own(text, own), where, commands=False)
                except SecretError as error:
                    problems += [config.problem(where, said(item), item.hint) for item in error.problems]
        try:
            self.resolve_text(config.egress.upstream_proxy or "", commands=False)
        except SecretError as error:
            at = ("egress", "upstream_proxy")
            problems += [config.problem(at, said(item), item.hint) for item in error.problems]
        return problems


KEY_RING = "the system's key ring"
UNLISTED = frozenset({Store.ENVIRONMENT, Store.KEY_RING})
"""Stores that cannot list their names."""


def said(problem: Problem) -> str:
    """A problem's message, with the file of a store that it is about."""
    return f"{problem.file} {problem.message}" if problem.file else problem.message


class Filling:
    """One run over some texts: what it found wrong, and what its commands printed. It is forgotten with them."""

    def __init__(self, store: SecretStore, *, commands: bool) -> None:
        self.store = store
        self.commands = commands
        self.problems: list[Problem] = []
        self.printed: dict[str, str | None] = {}
        """By command line; None for one that failed."""

    def text(self, text: str, where: KeyPath) -> str:
        """The text with its references filled in; what is wrong is added to `problems`."""

        def fill(match: re.Match[str]) -> str:
            reference: str | None = match[1]
            return "${" if reference is None else self.value(reference, where) or ""

        return REFERENCE.sub(fill, text)

    def value(self, reference: str, where: KeyPath) -> str | None:
        if finding := check_references(f"${{{reference}}}"):
            self.wrong(where, finding.message, finding.hint)
            return None
        kind, _, name = reference.partition(":")
        if kind == "secret":
            return self.secret(name, where)
        if kind == "command":
            return self.output(name, where) if self.commands else f"${{{reference}}}"
        match = ENV_NAME.fullmatch(name)
        assert match is not None  # check_references has seen it
        default: str | None = match[2]
        found = self.store.env.get(match[1]) or default
        if found is None:
            hint = f"Set it: export {match[1]}=…"
            self.wrong(where, f"the environment variable {match[1]} is not set", hint)
        return found

    def secret(self, name: str, where: KeyPath) -> str | None:
        try:
            found = self.store.lookup(name)
        except SecretError as error:
            self.problems += error.problems
            return None
        if found is None:
            self.wrong(where, f"the secret {name!r} is not set", self.store.how_to(name))
        return found

    def output(self, line: str, where: KeyPath) -> str | None:
        """What a command printed: each is run once."""
        if line not in self.printed:
            self.printed[line] = None
            try:
                self.printed[line] = run(line, self.store.env)
            except CommandFailed as error:
                hint = "Run it by hand, as the user that Stockade runs as, without a terminal"
                self.wrong(where, f"the command `{line}` {error}", hint)
        return self.printed[line]

    def wrong(self, where: KeyPath, message: str, hint: str) -> None:
        self.problems.append(Problem(key_path=render_path(where), message=message, hint=hint))
