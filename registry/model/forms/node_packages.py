"""Packages of npm: `npx`, `npm exec`, `bunx`, `pnpm dlx`, `yarn dlx`, and what these run of this machine's disk."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Final

from registry.model.errors import Invalid, KeyPath
from registry.model.forms.projects import NODE_FILE, Project, file_among
from registry.model.forms.tool_options import (
    BUNX,
    NPX,
    NPX_REFUSED,
    PNPM_DLX,
    PNPM_DLX_REFUSED,
    YARN_DLX,
)
from registry.model.forms.words import Command, Read, Words, first_word, own_values, refuse_in_options
from registry.model.options import Options, read_options
from registry.model.sources import PackageSource

NPM: Final = re.compile(
    r"(?P<name>(?:@[a-z0-9~-][a-z0-9._~-]*/)?[a-zA-Z0-9~-][a-zA-Z0-9._~-]*)(?:@(?P<version>[^\s/:]+))?"
)
REPOSITORY: Final = re.compile(
    r"(?:(?:github|gitlab|bitbucket):)?[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(?:#[^\s]+)?|git\+(?:https|ssh)://\S+"
)
"""What npm installs from a repository: `github:owner/name`, `owner/name#tag`, `git+https://…`."""
RUNNERS: Final = {
    "tsx": (),
    "ts-node": ("typescript",),
    "ts-node-esm": ("typescript",),
    "vite-node": (),
    "jiti": (),
}
"""Programs of npm that run a file of this machine, which is named in their arguments; and what they need beside them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Npm:
    """What a command wants of npm."""

    tool: str
    target: str
    args: Words
    packages: Words = field(default_factory=Words)
    """Of `-p`; where there are some, `target` is a program of theirs."""
    where: KeyPath
    """Where the target stands."""


def read_npx(command: Command, words: Words, tool: str) -> Read:
    """The words after `npx` or `npm exec`."""
    options = read_options(words.texts, NPX, tool=tool, refused=NPX_REFUSED, place=words.place)
    refuse_in_options(words, options)
    target, args = first_word(words.drop(options.end), tool, '"@modelcontextprotocol/server-everything"')
    if tool != "npx" and args.text(0) == "--":
        args = args.drop(1)  # which npm takes for itself
    if value := options.last("--node-options"):
        command = replace(command, env={**command.env, "NODE_OPTIONS": value})
    packages = packages_of(options, words)
    wanted = Npm(tool=tool, target=target, args=args, packages=packages, where=words.place(options.end))
    if wanted_runner(wanted):
        folders = [(value, index) for name, value, index in options.given if name in ("--prefix", "-C")]
        for value, index in folders[-1:]:
            command = replace(command, folders=command.folders + Words.at([value], words.place(index)))
        return read_runner(command, wanted)
    return npm_package(command, wanted)


def read_other(command: Command, words: Words, tool: str) -> Read:
    """The words after `bunx`, `bun x`, `pnpm dlx`, `pnpx` or `yarn dlx`."""
    grammar = BUNX if tool.startswith("bun") else YARN_DLX if tool.startswith("yarn") else PNPM_DLX
    options = read_options(words.texts, grammar, tool=tool, refused=REFUSED.get(tool, {}), place=words.place)
    refuse_in_options(words, options)
    target, args = first_word(words.drop(options.end), tool, '"@modelcontextprotocol/server-everything"')
    packages = packages_of(options, words)
    wanted = Npm(tool=tool, target=target, args=args, packages=packages, where=words.place(options.end))
    return read_runner(command, wanted) if wanted_runner(wanted) else npm_package(command, wanted)


REFUSED: Final = {"pnpm dlx": PNPM_DLX_REFUSED, "pnpx": PNPM_DLX_REFUSED}


def packages_of(options: Options, words: Words) -> Words:
    """The packages of all `-p`, each with its place."""
    found = Words()
    for name, value, index in options.given:
        if name in ("-p", "--package"):
            found += Words.at([value], words.place(index))
    return found


def bare(text: str) -> str:
    """A package's name without its version."""
    match = NPM.fullmatch(text)
    return match["name"] if match else ""


def wanted_runner(wanted: Npm) -> bool:
    """Whether it is a program that runs a file, and a file is named."""
    return bare(wanted.target) in RUNNERS and file_among(wanted.args, NODE_FILE) is not None


def read_runner(command: Command, wanted: Npm) -> Read:
    """`npx tsx FILE`: that program, installed beside the file's project."""
    project = Project.start(command, wanted.tool)
    found = file_among(wanted.args, NODE_FILE)
    assert found is not None
    project, _ = project.file(*found)
    name = bare(wanted.target)
    needed = wanted.packages.texts or (wanted.target.removesuffix("@latest"), *RUNNERS[name])
    return replace(project, requirements=needed).source("node", "command", name, wanted.args)


def npm_package(command: Command, wanted: Npm) -> Read:
    """A package of npm as a source."""
    packages, server = wanted.packages, command.server
    text = packages.text(0) or wanted.target
    where = packages.place(0) if packages else wanted.where
    repository = REPOSITORY.fullmatch(text) is not None and not text.startswith("@")
    match = None if repository else NPM.fullmatch(text)
    if match is None and not repository:
        raise not_npm(text, where)
    name = match["name"] if match else text
    version = "" if match is None or match["version"] in (None, "latest") else match["version"]
    git = ("git",) if repository else ()
    source = PackageSource(
        kind="npx",
        package=name,
        version=version,
        executable=wanted.target if packages else "",
        runtime_version=server.node,
        args=own_values(wanted.args.texts, command.variables),
        requirement=f"{name}@{version}" if version else name,
        extra_requirements=packages.texts[1:],
        system_packages=tuple(dict.fromkeys((*server.packages, *git))),
        env=command.variables,
        mounts=command.mounts,
        user=server.user,
    )
    return source, wanted.args


def not_npm(text: str, where: KeyPath) -> Invalid:
    hint = "Write a name such as @modelcontextprotocol/server-everything, with @VERSION if you like"
    if text.startswith(("/", ".", "~", "file:")) or re.match(r"[A-Za-z]:[\\/]", text):
        hint = "A program of this machine is run by its file: command: node, args: [FILE]"
    return Invalid(f"{text!r} is not a package of npm", hint, path=where)
