"""References to values that a file only names: `${secret:NAME}`, `${env:NAME}` and `${command:PROGRAM ARGUMENTS}` (what the
program prints); `$${` stands for a literal `${`.

They are filled in when a server starts (`registry.secrets`), in what it is given: `env`, `headers`, `url`, `auth`, and the
arguments of its program. In a mount they are filled in when the file is read, from `env` and the environment alone, since
the folder is checked then. Everywhere else (the package, the image, options of `docker run`) they are refused.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping

from registry.model.errors import Finding, Invalid, KeyPath

REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}")
SECRET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
ENV_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
STORE = re.compile(r"[a-z][a-z0-9_-]*")
KINDS = ("secret", "env", "command")
GIVEN = ("env", "args", "entrypoint")
"""The keys of an entry in which references are filled in for a program in a container."""
FILLED = frozenset({*GIVEN, "headers", "url", "auth", "secret_files"})
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
        if colon and kind == "command" and is_command(name):
            continue
        return Finding(
            (), f"${{{reference}}} is not a reference{why_not(kind, colon)}", how_to_write(reference, secrets)
        )
    return None


def is_command(line: str) -> bool:
    """Whether it is a line of words, with quotes as a shell reads them, the first of which names a program."""
    try:
        words = shlex.split(line)
    except ValueError:
        return False
    return bool(words and words[0]) and line.isprintable()


def why_not(kind: str, colon: str) -> str:
    """What is wrong with what stands before the colon, or after it."""
    if kind == "command":
        return ": it names no program to run, or a quote in it is not closed"
    return f": there is no store named {kind!r}" if colon and STORE.fullmatch(kind) and kind not in KINDS else ""


def how_to_write(reference: str, secrets: bool) -> str:
    """The hint beside a reference that is none."""
    named = ENV_NAME.fullmatch(reference) is not None
    secret = f"${{secret:{reference.lower() if named else 'NAME'}}} or " if secrets else ""
    return f"Write {secret}${{env:{reference if named else 'NAME'}}}; for a literal ${{ write $${{"


def from_own(text: str, env: Mapping[str, str]) -> str:
    """The text with each `${env:NAME}` that the entry's own `env` has replaced by what stands there, references and all.

    No new reference comes about where a value and what is around it stand together: that is literal.
    """
    found: list[tuple[str, bool]] = []
    replaced = False
    for piece, reference in pieces(text):
        kind, _, name = piece[2:-1].partition(":") if reference else ("", "", "")
        named = ENV_NAME.fullmatch(name) if kind == "env" else None
        if named and (own := env.get(named[1])):
            found += pieces(own)
            replaced = True
        else:
            found.append((piece, reference))
    return joined(found) if replaced else text


def pieces(text: str) -> list[tuple[str, bool]]:
    """The text in pieces: references as they stand (True), and what is literal, as it is meant (False)."""
    found: list[tuple[str, bool]] = []
    end = 0
    for match in REFERENCE.finditer(text):
        found.append((text[end : match.start()], False))
        found.append(("${", False) if match[1] is None else (match[0], True))
        end = match.end()
    return [*found, (text[end:], False)]


def joined(found: list[tuple[str, bool]]) -> str:
    """The text that means these pieces."""
    text, literal = "", ""
    for piece, reference in found:
        if not reference:
            literal += piece
            continue
        text += literal.replace("${", "$${") + piece
        literal = ""
    return text + literal.replace("${", "$${")


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
        if kind in ("secret", "command"):
            raise Invalid(f"the {kind} {name!r} has no place in a path", "Write the path, or ${env:NAME}")
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
