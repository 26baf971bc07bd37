"""What to run for a server's entry: a package, a program of this machine, an image, or a remote server. Pure: nothing is
looked up, except the mounts and files of variables that an entry names.

`plan_source` reads the commands that people have in their configurations (`uvx`, `npx`, `uv run`, `python FILE`,
`npm run`, `docker run …`, wrapped in `cmd /c` or `bash -c`, with a whole path or not) and gives what a runtime needs to
build and start it. An unknown command is an error, since a container has no such program. `registry.model.forms` has a
module for each kind of command.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from registry.model.errors import ConfigError, Invalid, KeyPath, Problem, render_path
from registry.model.forms.deno import read_deno
from registry.model.forms.images import ENGINES, env_files, read_engine, read_image
from registry.model.forms.keys import misplaced
from registry.model.forms.node_packages import RUNNERS, read_npx, read_other
from registry.model.forms.node_projects import read_bin, read_bun, read_node, read_runner_command
from registry.model.forms.node_projects import read_manager as read_npm
from registry.model.forms.projects import NODE_FILE, PYTHON_FILE, venv_of
from registry.model.forms.python_packages import read_uvx
from registry.model.forms.python_projects import (
    INTERPRETER,
    read_manager,
    read_pipx_command,
    read_python,
    read_uv,
    read_venv_program,
)
from registry.model.forms.shell import split_shell
from registry.model.forms.unknown import unknown_command
from registry.model.forms.words import Command, Read, Words, program
from registry.model.forms.wrappers import PEELS, see_through
from registry.model.references import from_own, refuse_references
from registry.model.server import Server
from registry.model.sources import ProjectSource, RemoteSource, Source

FORMS: Final[Mapping[str, Callable[[Command], Read]]] = {
    "uvx": lambda command: read_uvx(command, command.rest, "uvx"),
    "uv": read_uv,
    "pipx": read_pipx_command,
    "npx": lambda command: read_npx(command, command.rest, "npx"),
    "bunx": lambda command: read_other(command, command.rest, "bunx"),
    "pnpx": lambda command: read_other(command, command.rest, "pnpx"),
    **dict.fromkeys(("npm", "pnpm", "yarn"), read_npm),
    **dict.fromkeys(("poetry", "pdm", "hatch"), read_manager),
    "node": read_node,
    "nodejs": read_node,
    **dict.fromkeys(RUNNERS, read_runner_command),
    "bun": read_bun,
    "deno": read_deno,
    **dict.fromkeys(ENGINES, read_engine),
}
"""What reads each tool's words."""


def plan_source(server: Server) -> Source:
    """What to run for this entry. Raises ConfigError, with paths relative to the entry."""
    try:
        return plan(server)
    except Invalid as error:
        problems = [
            Problem(key_path=render_path(finding.path), message=finding.message, hint=finding.hint)
            for finding in error.findings
        ]
        raise ConfigError(problems) from None


def plan(server: Server) -> Source:
    """As `plan_source`, raising Invalid."""
    if server.url is not None:
        url = from_own(server.url, server.env)
        return RemoteSource(url=url, headers=dict(server.headers), auth=server.auth)
    source, _ = read(server)
    if findings := list(misplaced(server, source)):
        raise Invalid.all(findings)
    return source


def program_args(server: Server) -> list[tuple[KeyPath, str]]:
    """The arguments that the program itself gets, each with the key that it stands under. Raises Invalid."""
    _, args = read(server)
    return [(where, text) for text, where in args]


def unread_folders(server: Server) -> list[tuple[KeyPath, str]]:
    """The folders that a command changes to in vain, since what it runs is no program of this machine: each with the key
    that it stands under. Raises Invalid."""
    if server.command is None:
        return []
    command = see_through(Command(server, written(server)))
    source, _ = reader(command)(command)
    return [] if isinstance(source, ProjectSource) else [(where, text) for text, where in command.folders]


def read_files(server: Server) -> tuple[str, ...]:
    """The files of variables that an entry's command reads on this machine, as they are written. Raises Invalid."""
    return env_files(see_through(Command(server, written(server)))).texts if server.command is not None else ()


def read(server: Server) -> Read:
    """What a local entry runs, and the words of it that are the program's arguments. Raises Invalid."""
    if server.image is not None:
        return read_image(server)
    command = see_through(Command(server, written(server)))
    return reader(command)(command)


def written(server: Server) -> Words:
    """The words of `command` (which may hold the whole command) and `args`."""
    text = (server.command or "").strip()
    first = Words.at(whole(text), ("command",))
    return first + Words(server.args, tuple(("args", index) for index in range(len(server.args))))


def whole(text: str) -> list[str]:
    """The words in `command`: more than one where it is `uvx mcp-server-fetch`, not a path with a space in it."""
    parts = text.split()
    if len(parts) < 2:
        return [text]
    if re.search(r"[\"'\\/]", text) and not known(parts[0]):
        return [text]
    try:
        commands = split_shell(text, ("command",))
    except Invalid:
        return parts
    return commands[0] if len(commands) == 1 else parts


def known(word: str) -> bool:
    """Whether a word is the name of a tool that is read, or what is seen through."""
    name = program(word)
    return name in FORMS or name in PEELS or INTERPRETER.fullmatch(name) is not None


def reader(command: Command) -> Callable[[Command], Read]:
    """What reads this command's words. Raises Invalid for a program that has no meaning in a container."""
    text = command.words.text(0)
    refuse_references(re.sub(r"^\$\{env:[^{}]*\}(?=/)", "", text), "it names the program", command.words.place(0))
    if "/node_modules/.bin/" in f"/{text}":
        return read_bin
    if found := FORMS.get(command.name):
        return found
    if INTERPRETER.fullmatch(command.name):
        return read_python
    if PYTHON_FILE.fullmatch(text):
        return lambda command: read_python(started("python", command))
    if NODE_FILE.fullmatch(text):
        return lambda command: read_node(started("node", command))
    if venv_of(text) and "/" in text:
        return read_venv_program
    raise unknown_command(command)


def started(name: str, command: Command) -> Command:
    """A command that is a file by itself (with a line `#!…`), run by what its name says."""
    return replace(command, words=Words.at([name], ("command",)) + command.words)
