"""Programs of this machine in Python: `uv run`, `python FILE`, a virtual environment's, `poetry run` and its like."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Final

from registry.model.errors import Invalid
from registry.model.forms.projects import ADDRESS, PYTHON_FILE, Project, around_venv, file_among, venv_of
from registry.model.forms.python_packages import (
    RUNNERS,
    package_of,
    python_requirement,
    python_version,
    read_pipx,
    read_uvx,
    requirements,
)
from registry.model.forms.tool_options import UV_FLAGS, UV_INSTALL_FLAGS, UV_INSTALL_VALUES, UV_REFUSED, UV_VALUES
from registry.model.forms.words import Command, Read, Words, own_values, program
from registry.model.options import Grammar, Options, read_options
from registry.model.references import refuse_references
from registry.model.sources import PackageSource

INTERPRETER: Final = re.compile(r"(?:pythonw?|pypy)(?P<version>\d(?:\.\d{1,2})?)?t?|py")
UV: Final = Grammar(flags=frozenset(UV_FLAGS.split()), values=frozenset(UV_VALUES.split()))
WANTED_FLAGS: Final = frozenset(
    "--all-extras --no-dev --dev --only-dev --no-default-groups --all-groups --all-packages".split()
)
WANTED_VALUES: Final = frozenset("--extra --no-extra --group --no-group --only-group --package".split())
"""The options of `uv run` that say which of a project's dependencies are wanted."""
UV_RUN: Final = Grammar(
    flags=frozenset(
        f"{UV_FLAGS} {UV_INSTALL_FLAGS} -m --module -s --script --no-project --no-editable --inexact --exact --active"
        " --no-active --no-sync --locked --frozen --show-resolution".split()
    )
    | WANTED_FLAGS,
    values=frozenset(f"{UV_VALUES} {UV_INSTALL_VALUES} --no-editable-package".split()) | WANTED_VALUES,
)
FOLDER_OPTIONS: Final = ("--directory", "--project", "--with-editable")
RUN_REFUSED: Final = {key: why for key, why in UV_REFUSED.items() if key != "--with-editable"}


def read_uv(command: Command) -> Read:
    """`uv [global options] run|tool run|x …`."""
    words = command.rest
    options = read_options(words.texts, UV, tool="uv", refused={}, place=words.place)
    before, words = words.take(options.end), words.drop(options.end)
    if words.text(0) == "run":
        return read_uv_run(command, before + words.drop(1))
    if words.texts[:2] == ("tool", "run"):
        return read_uvx(command, before + words.drop(2), "uv tool run")
    if words.text(0) in ("x", "uvx"):
        return read_uvx(command, before + words.drop(1), "uv x")
    what = " ".join(("uv", *words.texts[:1]))
    hint = "Write uv run with the file or program, or uvx with the package"
    raise Invalid(f"Stockade reads `uv run …` and `uv tool run …`, not `{what}`", hint, path=words.place(0))


def read_uv_run(command: Command, words: Words) -> Read:
    """The words after `uv run`, with what stood between both."""
    options = read_options(words.texts, UV_RUN, tool="uv run", refused=RUN_REFUSED, place=words.place)
    for index, word in enumerate(words.texts[: options.end]):
        if not options_path(options, index):
            refuse_references(word, "it decides what is installed", words.place(index))
    project = Project.start(command, "uv run", picked(options, words, "--directory"))
    for editable, where in picked(options, words, "--with-editable"):
        folder = project.absolute(editable, where)
        if project.folder and project.folder != folder:
            hint = "Name that folder with --directory, or depend on it in the project"
            raise Invalid("a second folder beside the project's is not read", hint, path=where)
        project = replace(project, folder=folder)
    if root := picked(options, words, "--project"):
        inner = project.changed(root)
        project = replace(inner, beside=project.folder if project.folder != inner.folder else "")
    wanted = (
        (name, *([value] if name in WANTED_VALUES else []))
        for name, value, _ in options.given
        if name in WANTED_FLAGS | WANTED_VALUES
    )
    project = replace(
        project,
        requirements=requirements(options, words),
        options=tuple(word for option in wanted for word in option),
        runtime_version=python_version(options.last("--python", "-p")),
        interpreter=interpreter_of(project, options, words),
        standalone=any(name in ("--no-project", "--script", "-s") for name, _, _ in options.given),
    )
    after = words.drop(options.end)
    flags = {name for name, _, _ in options.given}
    if flags & {"-m", "--module"}:
        return read_module(project, after)
    if flags & {"--script", "-s"} and after:
        return read_file(project, after)
    return read_program(project, after)


def options_path(options: Options, index: int) -> bool:
    """Whether the word at `index` belongs to an option that names a folder, in which references are filled in."""
    return any(at in (index, index - 1) for name, _, at in options.given if name in FOLDER_OPTIONS)


def picked(options: Options, words: Words, *names: str) -> Words:
    """The value of the last of these options, with its place."""
    found = [Words.at([value], words.place(index)) for name, value, index in options.given if name in names]
    return found[-1] if found else Words()


def interpreter_of(project: Project, options: Options, words: Words) -> str:
    """A virtual environment's Python that `--python` names by its path."""
    for text, where in picked(options, words, "--python", "-p"):
        if venv_of(text):
            return project.absolute(text, where)
    return project.interpreter


def read_program(project: Project, words: Words) -> Read:
    """What a runner of projects runs: an interpreter with a file or module, a file, or a program that is installed."""
    tool = project.tool
    if not words:
        raise Invalid(f"{tool} does not say what to run", "Add the file or program", path=("args",))
    name, where = words.texts[0], words.place(0)
    if not PYTHON_FILE.fullmatch(name):
        refuse_references(name, "it decides what is run", where)
    if name == "-" or ADDRESS.match(name):
        raise Invalid(
            f"{tool} {name} is no file of this machine", "Keep the file in a folder, and name it", path=where
        )
    if match := INTERPRETER.fullmatch(program(name)):
        return read_interpreter(project, words, match["version"] or "")
    if PYTHON_FILE.fullmatch(name) or name.startswith(("/", "./", "../", "~")):
        return read_file(project, words)
    args = words.drop(1)
    found = file_among(args, PYTHON_FILE) if not project.folder or name in RUNNERS else None
    if found and not project.folder:
        project, _ = project.file(*found)
    if not project.folder and project.requirements and tool == "uv run":
        return package(project, name, args)
    hint = f"if it is a package of PyPI, write command: uvx, args: [{name}]"
    return project.named(name, where, hint).source("python", "command", name, args)


def package(project: Project, name: str, args: Words) -> Read:
    """`uv run --with PACKAGE PROGRAM` outside of any project: the program of a package."""
    command, server = project.command, project.command.server
    chosen = package_of(project.requirements, name) or project.requirements[0]
    bare, version, requirement = python_requirement(chosen, ("args",))
    source = PackageSource(
        kind="uvx",
        package=bare,
        version=version,
        executable=name,
        args=own_values(args.texts, command.variables),
        requirement=requirement,
        extra_requirements=tuple(one for one in project.requirements if one != chosen),
        runtime_version=server.python or project.runtime_version,
        system_packages=server.packages,
        env=command.variables,
        mounts=command.mounts,
        user=server.user,
    )
    return source, args


def read_file(project: Project, words: Words) -> Read:
    project, name = project.file(words.texts[0], words.place(0))
    return project.source("python", "file", name, words.drop(1))


def read_module(project: Project, words: Words) -> Read:
    """`-m MODULE`; the words begin with the module."""
    if not words:
        raise Invalid("-m does not say which module to run", "Add its name", path=("args",))
    name, where = words.texts[0], words.place(0)
    if not re.fullmatch(r"[^\W\d][\w-]*(\.[^\W\d][\w-]*)*", name):
        raise Invalid(f"{name!r} is not a module of Python", "Write one such as package.server", path=where)
    likely = name.partition(".")[0].replace("_", "-")
    hint = f"if it is a package of PyPI, write command: uvx, args: [{likely}]"
    return project.named(f"the module {name}", where, hint).source("python", "module", name, words.drop(1))


# the interpreter


FLAGS: Final = frozenset("bBdEiIOOPqRsSuvVx")
"""Options of Python that stand alone, of which several may be one word."""


def read_interpreter(project: Project, words: Words, version: str = "") -> Read:
    """`python [options] FILE|-m MODULE …`; the words begin with the interpreter."""
    path, where = words.texts[0], words.place(0)
    if venv := venv_of(path):
        interpreter = project.absolute(path, where)
        folder = project.folder or around_venv(os.path.normpath(os.path.join(interpreter, "../..")))
        project = replace(project, interpreter=interpreter, folder=folder if venv else project.folder)
    words = words.drop(1)
    if program(path) == "py" and (match := re.fullmatch(r"-(?:V:)?(\d(?:\.\d{1,2})?)(-\d\d)?", words.text(0))):
        version, words = match[1], words.drop(1)
    options: list[str] = []
    while words and (option := words.texts[0]).startswith("-") and option not in ("-", "--"):
        if option.startswith("-m"):
            project = with_runtime(project, options, version)
            joined = Words.at([option[2:]] if option[2:] else [], words.place(0))
            return read_module(project, joined + words.drop(1))
        if option.startswith("-c"):
            message = f"{program(path)} -c runs no file, and only a file's folder is shown to the server"
            raise Invalid(message, "Write it into a file", path=words.place(0))
        used = options_used(option)
        if not used:
            hint = "Remove it, if the server does without"
            raise Invalid(f"Stockade does not know Python's option {option}", hint, path=words.place(0))
        options += words.texts[:used]
        words = words.drop(used)
    if words.text(0) == "--":
        words = words.drop(1)
    if not words or words.texts[0] == "-":
        raise Invalid(f"{program(path)} does not say what to run", "Add the file, or -m and the module", path=where)
    return read_file(with_runtime(project, options, version), words)


def options_used(option: str) -> int:
    """How many words an option of Python takes; 0 for one that it does not have."""
    if option in ("-X", "-W", "--check-hash-based-pycs"):
        return 2
    known = option[:2] in ("-X", "-W") or (not option.startswith("--") and set(option[1:]) <= FLAGS)
    return 1 if known or option.startswith("--check-hash-based-pycs=") else 0


def with_runtime(project: Project, options: list[str], version: str) -> Project:
    version = version if "." in version else ""  # every Python here is a python3
    return replace(project, runtime_args=tuple(options), runtime_version=project.runtime_version or version)


def read_python(command: Command) -> Read:
    """An interpreter as the command: `python3.12 server.py`."""
    match = INTERPRETER.fullmatch(command.name)
    return read_interpreter(Project.start(command, command.name), command.words, (match and match["version"]) or "")


def read_venv_program(command: Command) -> Read:
    """A program in a virtual environment, by its path: `/x/.venv/bin/mcp-thing`."""
    path, where = command.words.texts[0], command.words.place(0)
    project = Project.start(command, command.name)
    whole = project.absolute(path, where)
    bin_folder = os.path.dirname(whole)
    args = command.rest
    if not project.folder and (found := file_among(args, PYTHON_FILE)) and command.name in RUNNERS:
        project, _ = project.file(*found)
    folder = project.folder or around_venv(os.path.dirname(bin_folder))
    project = replace(project, interpreter=f"{bin_folder}/python", folder=folder)
    return project.source("python", "command", os.path.basename(whole), args)


# poetry, pdm, hatch


MANAGERS: Final = {
    "poetry": Grammar(
        flags=frozenset(
            "-q --quiet -n --no-interaction -v -vv -vvv --verbose --ansi --no-ansi --no-plugins --no-cache".split()
        ),
        values=frozenset("-C --directory -P --project".split()),
    ),
    "pdm": Grammar(
        flags=frozenset("-q --quiet -v --verbose -s --site-packages -n --non-interactive --no-lock".split()),
        values=frozenset("-p --project -c --config --venv".split()),
    ),
    "hatch": Grammar(
        flags=frozenset("-q --quiet -v --verbose --no-color --color --no-interactive --interactive".split()),
        values=frozenset("-e --env -p --project --data-dir --cache-dir --config".split()),
    ),
}
SAID: Final = ("-C", "--directory", "-P", "--project", "-p")


def read_manager(command: Command) -> Read:
    """`poetry run …`, `pdm run …`, `hatch run …`, with the project's folder before or after `run`."""
    tool, words = command.name, command.rest
    grammar = MANAGERS[tool]
    said = Words()
    for step in range(2):
        options = read_options(words.texts, grammar, tool=tool, refused={}, place=words.place)
        said += picked(options, words, *SAID)
        words = words.drop(options.end)
        if step == 0:
            if words.text(0) != "run":
                what = " ".join((tool, *words.texts[:1]))
                hint = f"Write {tool} run with the file or program"
                raise Invalid(f"Stockade reads `{tool} run …`, not `{what}`", hint, path=words.place(0))
            words = words.drop(1)
    if tool == "hatch" and (match := re.fullmatch(r"[\w.-]+:(.+)", words.text(0))):
        words = Words((match[1],), words.places[:1]) + words.drop(1)  # the environment that it is run in
    return read_program(Project.start(command, f"{tool} run", said), words)


def read_pipx_command(command: Command) -> Read:
    """`pipx run …`."""
    words = command.rest
    while words.text(0) in ("--global", "--quiet", "-q", "-v", "--verbose"):
        words = words.drop(1)
    if words.text(0) != "run":
        what = " ".join(("pipx", *words.texts[:1]))
        raise Invalid(f"Stockade reads `pipx run …`, not `{what}`", "Write pipx run PACKAGE", path=words.place(0))
    return read_pipx(command, words.drop(1))
