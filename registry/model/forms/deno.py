"""Programs in Deno: `deno run FILE|npm:PACKAGE|jsr:PACKAGE`, `deno task NAME`."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from registry.model.errors import Invalid
from registry.model.forms.node_packages import read_other
from registry.model.forms.node_projects import is_file
from registry.model.forms.projects import Project
from registry.model.forms.words import Command, Read, Words
from registry.model.references import refuse_references

DENO_VALUES: Final = frozenset(
    "-c --config --import-map --lock --cert -L --log-level --location --seed --ext --cwd --preload --import --env".split()
)
PACKAGE: Final = re.compile(r"npm:/?(?P<package>(?:@[^/@\s]+/)?[^/@\s]+(?:@[^/\s]+)?)(?:/(?P<program>[^\s]+))?")


def read_deno(command: Command) -> Read:
    """`deno run [options] FILE|npm:PACKAGE|jsr:PACKAGE …`, `deno task NAME …`."""
    verb, words = command.rest.text(0), command.rest.drop(1)
    if verb not in ("run", "task", "x", "serve") and is_file(verb):
        verb, words = "run", command.rest
    if verb not in ("run", "task"):
        message = f"Stockade reads `deno run …` and `deno task …`, not `{' '.join(('deno', verb)).strip()}`"
        raise Invalid(message, "Write deno run with the file", path=command.rest.place(0))
    project, options = Project.start(command, f"deno {verb}"), list[str]()
    while words and (option := words.texts[0]).startswith("-") and option != "-":
        name, equals, value = option.partition("=")
        used = 2 if name in DENO_VALUES and not equals else 1
        if name == "--cwd":
            project = project.changed(Words.at([value if equals else words.text(1)], words.place(0)))
        elif option != "--":
            options += words.texts[:used]
        words = words.drop(used)
    if not words or words.texts[0] == "-":
        raise Invalid(f"deno {verb} does not say what to run", "Add the file or task", path=("args",))
    name, where = words.texts[0], words.place(0)
    if match := PACKAGE.fullmatch(name):
        return deno_package(command, match["package"], match["program"] or "", words)
    project = replace(project, runtime_args=tuple(options))
    if verb == "task":
        refuse_references(name, "it decides what is run", where)
        return project.named(f"the task {name}", where).source("deno", "script", name, words.drop(1))
    if re.match(r"jsr:|https?://", name):
        refuse_references(name, "it decides what is run", where)
        return replace(project, standalone=True).source("deno", "file", name, words.drop(1))
    project, name = project.file(name, where)
    return project.source("deno", "file", name, words.drop(1))


def deno_package(command: Command, package: str, name: str, words: Words) -> Read:
    """`deno run npm:PACKAGE[/PROGRAM] …`, which is a package of npm."""
    said = Words.at(["-p", package, "--", name], words.place(0)) if name else Words.at([package], words.place(0))
    return read_other(command, said + words.drop(1), "deno run")
