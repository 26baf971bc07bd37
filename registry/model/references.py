"""References to values that a file only names: `${secret:NAME}` and `${env:NAME}`; `$${` stands for a literal `${`.

They are filled in when a server starts (`registry.secrets`), in what it is given: `env`, `headers`, `url`, `auth`, and the
arguments of its program. In a mount they are filled in when the file is read, from `env` and the environment alone, since
the folder is checked then. Everywhere else (the package, the image, options of `docker run`) they are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from registry.model.errors import Finding, Invalid, KeyPath

REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}")
SECRET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
ENV_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
GIVEN = ("env", "args", "entrypoint")
"""The keys of an entry in which references are filled in for a program in a container."""
FILLED = frozenset({*GIVEN, "headers", "url", "auth"})
"""All keys of an entry in which they are filled in at its start."""
SHELL = re.compile(r"(?<!\$)\$([A-Za-z_][A-Za-z0-9_]*)")
"""A variable as a shell writes it, which no client and no gateway fills in."""


def references(text: str) -> list[str]:
    """What stands between `${` and `}` in the text, in order."""
    return [match[1] for match in REFERENCE.finditer(text) if match[1] is not None]


def check_references(text: str, *, secrets: bool = True) -> Finding | None:
    """What is wrong with the references in a text, if anything; without `secrets` none is advised."""
    for reference in references(text):
        kind, colon, name = reference.partition(":")
        if colon and kind == "secret" and SECRET_NAME.fullmatch(name):
            continue
        if colon and kind == "env" and ENV_NAME.fullmatch(name):
            continue
        named = ENV_NAME.fullmatch(reference) is not None
        secret = f"${{secret:{reference.lower() if named else 'NAME'}}} or " if secrets else ""
        hint = f"Write {secret}${{env:{reference if named else 'NAME'}}}; for a literal ${{ write $${{"
        return Finding((), f"${{{reference}}} is not a reference", hint)
    return None


def from_own(text: str, env: Mapping[str, str]) -> str:
    """The text with each `${env:NAME}` that the entry's own `env` has replaced by what stands there, references and all."""

    def own(match: re.Match[str]) -> str:
        kind, _, name = (match[1] or "").partition(":")
        named = ENV_NAME.fullmatch(name) if kind == "env" else None
        return (env.get(named[1]) if named else "") or match[0]

    return REFERENCE.sub(own, text)


def refuse_references(text: str, what: str, path: KeyPath) -> None:
    """Raises Invalid for a reference where none is filled in; `what` names that place."""
    if found := references(text):
        hint = "Write the value itself; arguments of the server, `env`, `headers` and `url` may have references"
        raise Invalid(f"${{{found[0]}}} is not filled in here: {what}", hint, path=path)


def fill_path(text: str, env: Mapping[str, str]) -> str:
    """A mount with its `${env:NAME}` filled in, from the entry's own `env`, then from the environment. Raises Invalid."""

    def fill(match: re.Match[str]) -> str:
        if match[1] is None:
            return "${"
        if finding := check_references(match[0], secrets=False):
            raise Invalid(finding.message, finding.hint)
        kind, _, name = match[1].partition(":")
        if kind == "secret":
            raise Invalid(f"the secret {name!r} has no place in a path", "Write the path, or ${env:NAME}")
        named = ENV_NAME.fullmatch(name)
        assert named is not None  # check_references has seen it
        value = os.environ.get(named[1]) or named[2]
        if not value:
            hint = f"Write the path itself, or set it where Stockade runs: export {named[1]}=…"
            raise Invalid(f"the environment variable {named[1]} is not set", hint)
        if re.search(r"[:,]", value):
            raise Invalid(f"the environment variable {named[1]} holds `:` or `,`", "Write the path itself")
        return value

    filled = REFERENCE.sub(fill, from_own(text, env))
    if shell := SHELL.search(text):
        raise Invalid(f"${shell[1]} is not filled in", f"Write ${{env:{shell[1]}}}, or the path itself")
    return filled
