"""Programs of this machine in Node and Bun: `node FILE`, `tsx FILE`, `npm run NAME`, `yarn NAME`, `bun FILE`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from registry.model.errors import Invalid
from registry.model.forms.node_packages import RUNNERS, read_npx, read_other
from registry.model.forms.projects import ADDRESS, NODE_FILE, Project, file_among
from registry.model.forms.words import Command, Read, Words, program
from registry.model.options import Grammar, read_options
from registry.model.references import refuse_references

NODE_VALUES: Final = frozenset(
    "-r --require --import --loader --experimental-loader --env-file --env-file-if-exists -C --conditions --title"
    " --input-type --experimental-default-type --icu-data-dir --openssl-config --diagnostic-dir --stack-trace-limit"
    " --max-http-header-size --disable-warning --watch-path --unhandled-rejections --dns-result-order".split()
)
NODE_TEXT: Final = frozenset("-e --eval -p --print -pe --check -c --test --run -i --interactive".split())


def read_node(command: Command) -> Read:
    """`node [options] FILE …`."""
    return node_file(Project.start(command, "node"), command.rest)


def node_file(project: Project, words: Words) -> Read:
    """The words after `node`."""
    options: list[str] = []
    while words and (option := words.texts[0]).startswith("-") and option not in ("-", "--"):
        name, equals, _ = option.partition("=")
        if name in NODE_TEXT:
            message = f"node {name} runs no file, and only a file's folder is shown to the server"
            raise Invalid(message, "Write it into a file, and node FILE", path=words.place(0))
        used = 2 if name in NODE_VALUES and not equals else 1
        options += words.texts[:used]
        words = words.drop(used)
    if words.text(0) == "--":
        words = words.drop(1)
    if not words or words.texts[0] == "-":
        raise Invalid("node does not say which file to run", "Add it to args", path=("args",))
    project, name = project.file(words.texts[0], words.place(0))
    return replace(project, runtime_args=tuple(options)).source("node", "file", name, words.drop(1))


def read_runner_command(command: Command) -> Read:
    """`tsx FILE`, `ts-node FILE`: installed on this machine, so the project needs it."""
    return node_program(Project.start(command, command.name), command.words, install=True)


def node_program(project: Project, words: Words, *, install: bool = False) -> Read:
    """A program that a project has installed, or `node`; the words begin with it."""
    if not words:
        raise Invalid(f"{project.tool} does not say what to run", "Add the program", path=("args",))
    name, where, args = words.texts[0], words.place(0), words.drop(1)
    refuse_references(name, "it decides what is run", where)
    if program(name) == "node":
        return node_file(project, args)
    if name in RUNNERS:
        found = file_among(args, NODE_FILE)
        if found is None:
            raise Invalid(f"{name} does not say which file to run", "Add it to args", path=where)
        project, _ = project.file(*found)
        if install:
            project = replace(project, requirements=(name, *RUNNERS[name]))
    return project.named(name, where).source("node", "command", name, args)


def read_bin(command: Command) -> Read:
    """A program of a project's node_modules, by its path: `/x/node_modules/.bin/server`."""
    path, where = command.words.texts[0], command.words.place(0)
    project = Project.start(command, command.name)
    whole = project.absolute(path, where)
    project = replace(project, folder=project.folder or whole.partition("/node_modules/.bin/")[0])
    return project.source("node", "command", os.path.basename(whole), command.rest)


# npm, pnpm, yarn


WORKSPACE: Final = "a part of a workspace is named by its folder"
NPM: Final = Grammar(
    flags=frozenset(
        "-s --silent -q --quiet --if-present --ignore-scripts --foreground-scripts --no-update-notifier --no-audit --no-fund"
        " -d --verbose --no-color --color --no-progress --workspaces --ws --include-workspace-root -y --yes".split()
    ),
    values=frozenset(
        "--prefix -C --loglevel -w --workspace --script-shell --userconfig --cache --registry --node-options".split()
    ),
)
PNPM: Final = Grammar(
    flags=frozenset(
        "-s --silent -r --recursive -w --workspace-root --color --no-color --if-present --stream --use-stderr --offline"
        " --no-bail --parallel --sequential".split()
    ),
    values=frozenset("-C --dir --filter -F --reporter --loglevel --package --prefix --shell-emulator".split()),
)
YARN: Final = Grammar(
    flags=frozenset(
        "-s --silent --offline --non-interactive --verbose --no-progress -T --top-level -B --binaries-only".split()
    ),
    values=frozenset("--cwd --use-yarnrc --registry --cache-folder".split()),
)
GRAMMARS: Final[Mapping[str, Grammar]] = {"npm": NPM, "pnpm": PNPM, "yarn": YARN}
FOLDERS: Final = ("--prefix", "-C", "--dir", "--cwd")
REFUSED: Final = {
    **dict.fromkeys(("-w", "--workspace", "--workspaces", "--ws", "--include-workspace-root"), WORKSPACE),
    **dict.fromkeys(("--filter", "-F", "-r", "--recursive", "--workspace-root", "--parallel"), WORKSPACE),
    "--script-shell": "scripts are run by the container's own shell",
}
RUN: Final[Mapping[str, frozenset[str]]] = {
    "npm": frozenset({"run", "run-script", "rum", "urn"}),
    "pnpm": frozenset({"run", "run-script"}),
    "yarn": frozenset({"run"}),
}
SHORT: Final = frozenset({"start", "restart", "stop", "test"})
"""The scripts that npm runs without `run`."""
NO_SCRIPT: Final = frozenset(
    "install i ci add remove rm uninstall update up upgrade publish link init create audit list ls why pack config cache"
    " store import rebuild prune outdated version login whoami set-script workspace workspaces".split()
)


def read_manager(command: Command) -> Read:
    """`npm|pnpm|yarn [--prefix D] [run|start|exec|dlx] NAME …`."""
    tool, words = command.name, command.rest
    folders, packages, env, words = npm_options(command, words)
    command = replace(command, env={**command.env, **env})
    verb, where = words.text(0), words.place(0)
    if tool == "npm" and verb in ("exec", "x"):
        said = Words() if not folders else Words.at(["--prefix", folders.texts[-1]], folders.places[-1])
        return read_npx(command, said + words.drop(1), f"npm {verb}")
    if verb == "dlx" and tool != "npm":
        before = Words()
        for package, at in packages:
            before += Words.at(["-p", package], at)
        return read_other(command, before + words.drop(1), f"{tool} dlx")
    project = Project.start(command, f"{tool} {verb}".strip(), folders)
    if verb in RUN[tool]:
        return read_script(project, command, words.drop(1))
    if verb in ("exec", "node") and tool != "npm":
        rest = words if verb == "node" else words.drop(1)
        return node_program(project, rest.drop(1) if rest.text(0) == "--" else rest)
    if verb in RUNNERS and tool != "npm":
        return node_program(project, words)
    if not verb or verb in NO_SCRIPT or (tool == "npm" and verb not in SHORT):
        what = f"{tool} {verb}".strip()
        raise Invalid(
            f"Stockade reads `{tool} run NAME`, not `{what}`", f"Write {tool} run with a script", path=where
        )
    return read_script(project, command, words)


def npm_options(command: Command, words: Words) -> tuple[Words, Words, dict[str, str], Words]:
    """The folders and packages that options name, the variables they set, and the words after them."""
    options = read_options(words.texts, GRAMMARS[command.name], tool=command.name, refused=REFUSED, place=words.place)
    folders, packages, env = Words(), Words(), {}
    for name, value, index in options.given:
        where = words.place(index)
        if name in FOLDERS:
            folders += Words.at([value], where)
        elif name == "--package":
            packages += Words.at([value], where)
        elif name == "--node-options":
            env["NODE_OPTIONS"] = value
    return folders, packages, env, words.drop(options.end)


def read_script(project: Project, command: Command, words: Words) -> Read:
    """A script of package.json and its arguments. The words begin with the options after `run`, or with its name."""
    folders, _, env, words = npm_options(command, words)
    project = project.changed(folders)
    if not words:
        raise Invalid(f"{project.tool} does not say which script to run", "Add its name", path=("args",))
    name, where, rest = words.texts[0], words.place(0), words.drop(1)
    refuse_references(name, "it decides what is run", where)
    end = rest.texts.index("--") if "--" in rest.texts else len(rest)
    if command.name != "npm":
        args = rest.drop(1) if end == 0 else rest
    else:
        args, own = Words(), rest.take(end)
        while own:  # options of npm may stand after the script's name
            folders, _, after, own = npm_options(command, own)
            project, env = project.changed(folders), {**env, **after}
            args, own = args + own.take(1), own.drop(1)
        args += rest.drop(end + 1)
    project = replace(project, command=replace(command, env={**command.env, **env}))
    return project.named(f"the script {name}", where).source("node", "script", name, args)


# bun


BUN_FLAGS: Final = frozenset("--bun -b --silent --if-present --no-install -i --install".split())
"""Of no meaning for what is run."""
BUN_VALUES: Final = frozenset(
    "-r --preload --import --env-file -c --config -d --define -l --loader --tsconfig-override --conditions --port"
    " --main-fields --extension-order --drop --shell --elide-lines --inject".split()
)


def read_bun(command: Command) -> Read:
    """`bun [options] [run] FILE|SCRIPT …`, `bun x PACKAGE`."""
    words, options, run = command.rest, list[str](), False
    project = Project.start(command, "bun")
    while words and ((word := words.texts[0]).startswith("-") or (word == "run" and not run)):
        name, equals, value = word.partition("=")
        if name == "--cwd":
            where = words.place(0)
            words = words.drop(1 if equals else 2)
            project = project.changed(
                Words.at([value or command.rest.texts[len(command.rest) - len(words) - 1]], where)
            )
            continue
        if name in ("--filter", "-F", "-e", "--eval", "-p", "--print", "-"):
            raise Invalid(
                f"bun {name} is refused: {WORKSPACE}", "Write bun run with a file or script", path=words.place(0)
            )
        used = 2 if name in BUN_VALUES and not equals else 1
        run |= word == "run"
        options += [] if name in BUN_FLAGS or word == "run" else words.texts[:used]
        words = words.drop(used)
    if not words:
        raise Invalid("bun does not say what to run", "Add the file or script", path=("args",))
    if words.texts[0] == "x" and not run:
        return read_other(command, words.drop(1), "bun x")
    return bun_target(replace(project, runtime_args=tuple(options)), words, run=run)


def bun_target(project: Project, words: Words, *, run: bool) -> Read:
    """A file or a script of package.json, as its name looks."""
    name, where, args = words.texts[0], words.place(0), words.drop(1)
    if not run and name in NO_SCRIPT:
        raise Invalid(
            f"Stockade reads `bun run …`, not `bun {name}`", "Write bun run with a file or script", path=where
        )
    if is_file(name):
        project, name = project.file(name, where)
        return project.source("bun", "file", name, args)
    refuse_references(name, "it decides what is run", where)
    return project.named(f"the script {name}", where).source("bun", "script", name, args)


def is_file(name: str) -> bool:
    """Whether a name is a file's, not a script's."""
    return bool(NODE_FILE.fullmatch(name) or re.match(r"\.{0,2}/|~/|[A-Za-z]:[\\/]", name)) and not ADDRESS.match(
        name
    )
