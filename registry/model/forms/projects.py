"""What all forms of a program of this machine have in common: its folder, and how a `ProjectSource` is made of it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from registry.model.errors import Invalid, KeyPath
from registry.model.fields import Origin
from registry.model.forms.words import Command, Read, Words, own_values
from registry.model.references import fill_path
from registry.model.sources import HOME, ProjectSource

How = Literal["file", "module", "command", "script"]
Language = Literal["python", "node", "bun", "deno"]
DRIVE: Final = re.compile(r"([A-Za-z]):[\\/](.*)", re.DOTALL)
PYTHON_FILE: Final = re.compile(r"[^-].*\.pyw?", re.IGNORECASE)
NODE_FILE: Final = re.compile(r"[^-].*\.[cm]?[jt]sx?", re.IGNORECASE)
ADDRESS: Final = re.compile(r"(https?|jsr|npm|data|file):")


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """What is known of a program of this machine before its name is read."""

    command: Command
    tool: str
    """The tool as it was written, for errors: `uv run`, `npm run`."""
    folder: str = ""
    """Absolute; empty where neither the command nor the entry names one."""
    beside: str = ""
    """The folder that a relative file is in, where it is not `folder` (`uv run --project`)."""
    requirements: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    runtime_version: str = ""
    interpreter: str = ""
    standalone: bool = False
    runtime_args: tuple[str, ...] = ()

    @classmethod
    def start(cls, command: Command, tool: str, said: Words = Words()) -> Project:  # noqa: B008 - frozen
        """A project in the folder that the entry, what is around the command, and its own options (`said`) lead to."""
        project = cls(command=command, tool=tool, folder=command.server.cwd)
        project = project.changed(command.folders).changed(said)
        for venv, where in command.activated:
            project = replace(project, interpreter=f"{project.absolute(venv, where)}/bin/python")
        return project

    def changed(self, folders: Words) -> Project:
        """In these folders, each of which starts from the one before."""
        project = self
        for folder, where in folders:
            project = replace(project, folder=project.absolute(folder, where))
        return project

    def absolute(self, text: str, where: KeyPath) -> str:
        """A path of this machine, absolute and in its one spelling. Raises Invalid where it is relative to nothing."""
        path = local_path(text, where, self.command.variables)
        if not os.path.isabs(path) and not self.folder:
            raise relative_to_nothing(text, where)
        return os.path.normpath(os.path.join(self.folder, path))

    def file(self, text: str, where: KeyPath) -> tuple[Project, str]:
        """The project with a folder, and the name of a file as its source has it: absolute, or relative to that folder."""
        path = local_path(text, where, self.command.variables)
        if os.path.isabs(path):
            path = os.path.normpath(path)
            return (self if self.folder else replace(self, folder=os.path.dirname(path))), path
        base = self.beside or self.folder
        if not base:
            raise relative_to_nothing(text, where)
        path = os.path.normpath(path)
        return self, os.path.join(base, path) if self.beside else outside(path, self.folder)

    def named(self, what: str, where: KeyPath, hint: str = "") -> Project:
        """The project, which has a folder. Raises Invalid where it has none, in which `what` could be looked for."""
        if self.folder:
            return self
        otherwise = f"; {hint}" if hint else ""
        hint = f"Add cwd: FOLDER, the project's ('.' is this file's folder){otherwise}"
        raise Invalid(f"{what} is looked for in a project, and no folder is given", hint, path=where)

    def source(self, language: Language, how: How, name: str, args: Words) -> Read:
        """The source, and its arguments with their places."""
        command, server = self.command, self.command.server
        version = server.python if language == "python" else server.node
        source = ProjectSource(
            language=language,
            folder=self.folder or HOME,
            how=how,
            name=name,
            runtime_args=self.runtime_args,
            args=own_values(args.texts, command.variables),
            requirements=self.requirements,
            options=self.options,
            runtime_version=version or self.runtime_version,
            interpreter=self.interpreter,
            standalone=self.standalone,
            copied=server.source is Origin.COPY,
            system_packages=with_git(server.packages, self.requirements),
            env=command.variables,
            mounts=command.mounts,
            user=server.user,
        )
        return source, args


def with_git(packages: tuple[str, ...], requirements: tuple[str, ...]) -> tuple[str, ...]:
    """Debian packages, with git where a requirement is a repository."""
    git = ("git",) if any("git+" in requirement for requirement in requirements) else ()
    return tuple(dict.fromkeys((*packages, *git)))


def outside(path: str, folder: str) -> str:
    """A relative path as it is, or absolute where it leads out of its folder."""
    return os.path.normpath(os.path.join(folder, path)) if path == ".." or path.startswith("../") else path


def relative_to_nothing(text: str, where: KeyPath) -> Invalid:
    hint = "Add cwd: FOLDER, the folder that it starts in ('.' is this file's own), or write the whole path"
    return Invalid(f"{text} is relative to nothing", hint, path=where)


def local_path(text: str, where: KeyPath, env: Mapping[str, str]) -> str:
    """A path of this machine with `~` and `${env:NAME}` filled in; it may be relative. Raises Invalid for one of Windows."""
    if windows := DRIVE.fullmatch(text):
        there = f"/mnt/{windows[1].lower()}/{windows[2].replace(chr(92), '/')}"
        hint = f"Write the path that it has where Stockade runs; in WSL that is {there}"
        raise Invalid(f"{text} is a path of Windows, and servers run on this machine", hint, path=where)
    if "\0" in text:
        raise Invalid("holds NUL", "Write the path of a file or folder", path=where)
    try:
        return os.path.expanduser(fill_path(text, env))
    except Invalid as error:
        finding = error.findings[0]
        raise Invalid(finding.message, finding.hint, path=where) from None


def file_among(words: Words, kind: re.Pattern[str]) -> tuple[str, KeyPath] | None:
    """The first word that names a file of this kind (`server.py`, and `server.py:app` as well)."""
    for text, where in words:
        bare = re.sub(r"(?<=\w):[\w.]+(\(\))?$", "", text)
        if kind.fullmatch(bare) and not ADDRESS.match(text):
            return bare, where
    return None


def venv_of(path: str) -> str:
    """The virtual environment in whose folder for programs this one is, by its path; empty for none."""
    match = re.fullmatch(
        r"(?P<venv>(?:.*[/\\])?(?:[\w.-]*env(?:\d[\w.]*)?|(?:\.?virtualenvs|venvs|envs|uv[/\\]tools)[/\\][^/\\]+))"
        r"[/\\](?:bin|Scripts)[/\\][^/\\]+",
        path,
        re.IGNORECASE,
    )
    return match["venv"] if match else ""


def around_venv(venv: str) -> str:
    """The folder that a virtual environment belongs to: the one it is in, if it is called as those of projects are."""
    name = os.path.basename(venv)
    return os.path.dirname(venv) if re.fullmatch(r"\.?v?env(\d[\w.]*)?", name) else venv
