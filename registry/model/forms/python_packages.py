"""Packages of PyPI: `uvx`, `uv tool run`, `pipx run`, and what these run of this machine's disk."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from registry.model.errors import Invalid, KeyPath
from registry.model.forms.projects import PYTHON_FILE, Project, file_among, with_git
from registry.model.forms.tool_options import PIPX, PIPX_REFUSED, UVX, UVX_REFUSED
from registry.model.forms.words import Command, Read, Words, first_word, own_values, refuse_in_options
from registry.model.options import Options, read_options
from registry.model.sources import PackageSource

REQUIREMENT: Final = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?P<extras>\[[A-Za-z0-9._,\s-]*\])?\s*"
    r"(?:@(?P<at>[A-Za-z0-9.+!_-]+)|(?P<spec>[=<>!~][^;]*))?"
)
RUNNERS: Final = frozenset({"mcp", "fastmcp"})
"""Programs of PyPI that run a file of this machine, which is named in their arguments."""


def read_uvx(command: Command, words: Words, tool: str) -> Read:
    """The words after `uvx` or `uv tool run`."""
    options = read_options(words.texts, UVX, tool=tool, refused=UVX_REFUSED, place=words.place)
    return read_tool(command, words, options, tool, "--from")


def read_pipx(command: Command, words: Words) -> Read:
    """The words after `pipx run`."""
    tool = "pipx run"
    options = read_options(words.texts, PIPX, tool=tool, refused=PIPX_REFUSED, place=words.place)
    after = words.drop(options.end)
    if PYTHON_FILE.fullmatch(after.text(0)) and not options.last("--spec"):
        project = Project.start(command, tool)
        project, name = project.file(after.texts[0], after.place(0))
        project = replace(project, standalone=True, runtime_version=python_version(options.last("--python")))
        return project.source("python", "file", name, after.drop(1))
    return read_tool(command, words, options, tool, "--spec")


def read_tool(command: Command, words: Words, options: Options, tool: str, key: str) -> Read:
    """What a runner of packages runs; `key` is its option for the package that has the command."""
    refuse_in_options(words, options)
    target, args = first_word(words.drop(options.end), tool, "mcp-server-fetch")
    wanted = options.last(key) or target
    where = words.place(options.index(key, options.end))
    program = re.split(r"[@\[=<>!~ ]", target)[0]
    extras = requirements(options, words)
    version = python_version(options.last("--python", "-p"))
    if is_folder(wanted) and options.last(key):
        project = Project.start(command, tool, Words.at([wanted], where))
        project = replace(project, requirements=extras, runtime_version=version)
        return project.source("python", "command", program, args)
    if program in RUNNERS and (found := file_among(args, PYTHON_FILE)):
        project, _ = Project.start(command, tool).file(*found)
        needed = (python_requirement(wanted, where)[2], *extras)
        project = replace(project, requirements=needed, runtime_version=version, standalone=True)
        return project.source("python", "command", program, args)
    name, wanted_version, requirement = python_requirement(wanted, where)
    if requirement.startswith("git+") and not options.last(key):
        raise Invalid(f"{tool} does not know the command of a git URL", f"Write {key} URL COMMAND", path=where)
    source = PackageSource(
        kind="uvx",
        package=name,
        version=wanted_version,
        executable=program,
        args=own_values(args.texts, command.variables),
        requirement=requirement,
        extra_requirements=extras,
        runtime_version=command.server.python or version,
        system_packages=with_git(command.server.packages, (requirement, *extras)),
        env=command.variables,
        mounts=command.mounts,
        user=command.server.user,
    )
    return source, args


def requirements(options: Options, words: Words) -> tuple[str, ...]:
    """The packages of all `--with`, each of which may be a list with commas. Raises Invalid for folders of this machine."""
    found: list[str] = []
    for option, value, index in options.given:
        if option in ("--with", "-w"):
            found += split_requirements(value)
            for text in split_requirements(value):
                refuse_folder(text, option, words.place(index))
    return tuple(found)


def split_requirements(text: str) -> list[str]:
    """`a,b[x,y]>=1,<2` is `a` and `b[x,y]>=1,<2`: a comma counts where a name follows it, outside of brackets."""
    parts = re.split(r",(?=\s*[A-Za-z0-9./~])(?![^\[]*\])", text)
    return [part.strip() for part in parts if part.strip()]


def refuse_folder(text: str, option: str, where: KeyPath) -> None:
    if is_folder(text):
        message = f"{option} {text} is a folder or file of this machine, which is not in the image"
        raise Invalid(message, "Name a package, or run the server from a project that depends on it", path=where)


def is_folder(text: str) -> bool:
    """Whether a requirement is a path: it begins like one, and is no wheel."""
    return text.startswith(("/", ".", "~")) and not text.endswith((".whl", ".tar.gz", ".zip", ".py"))


def python_requirement(text: str, where: KeyPath) -> tuple[str, str, str]:
    """Name, version and pip's spelling of what uvx was asked for."""
    if re.match(r"git\+https://", text) or re.match(r"[A-Za-z0-9._-]+ ?@ ?git\+https://", text):
        return text.partition("@ ")[0].strip() or text, "", text
    match = REQUIREMENT.fullmatch(text.strip())
    if match is None:
        message = f"{text!r} is not a package of PyPI"
        if "/" in text or text.startswith("."):
            hint = "Of this machine's disk a folder can be run, with --from FOLDER COMMAND; or publish it"
        else:
            hint = "Write a name such as mcp-server-fetch, or mcp-server-fetch==1.2.3"
        raise Invalid(message, hint, path=where)
    version = match["at"] or (match["spec"] or "").strip()
    version = "" if version == "latest" else version
    extras = (match["extras"] or "").replace(" ", "")
    spelled = f"=={version}" if version and match["at"] else version
    return match["name"], version.removeprefix("=="), f"{match['name']}{extras}{spelled}"


def python_version(text: str) -> str:
    """The version in what `--python` was given: `3.12`, `python3.12`, `cpython@3.12`, `/usr/bin/python3.12`."""
    if not re.search(r"[A-Za-z/\\]", text):
        return text
    match = re.search(r"python[-@]?(\d(?:\.\d{1,2}){0,2})(?![\w.])", re.split(r"[/\\]", text)[-1], re.IGNORECASE)
    return match[1] if match else ""


def package_of(names: Iterable[str], program: str) -> str:
    """The requirement that a program of this name is most likely from; empty where none is called so."""
    wanted = normal(program)
    return next((name for name in names if normal(re.split(r"[@\[=<>!~; ]", name)[0]) == wanted), "")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
