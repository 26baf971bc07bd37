"""Keeps npm and its like from starting a program while they download with this machine's credentials. Pure.

With `--ignore-scripts` they still run code: of a package from a Git repository npm 10 and Yarn run `prepare`, and npm takes
the program for `git` and options of Node from that repository's .npmrc. None of them needs a program to download.
"""

from __future__ import annotations

import shlex
from typing import Final

REFUSED: Final = (
    "A package that comes from a Git repository builds itself as it is downloaded, and would do so where the credentials "
    "for registries are. Take a release of it from a registry, or set STOCKADE_BUILD_CREDENTIALS=visible for the gateway."
)
FOLDER: Final = "/tmp/download-only"  # noqa: S108 - of a container
GUARD: Final = f"""\
const child = require("child_process");
const refuse = () => {{ throw new Error("{REFUSED}"); }};
child.ChildProcess.prototype.spawn = refuse;
for (const name of ["spawnSync", "execSync", "execFileSync"]) child[name] = refuse;
require("module").syncBuiltinESMExports();
"""
GIT: Final = f'#!/bin/sh\necho "{REFUSED}" >&2\nexit 1\n'
PREPARE: Final = (
    f"mkdir -p {FOLDER}\nprintf %s {shlex.quote(GUARD)} > {FOLDER}/guard.js\nprintf %s {shlex.quote(GIT)} > {FOLDER}/git\n"
    f'chmod 0755 {FOLDER}/git\nexport PATH="{FOLDER}:$PATH" npm_config_git={FOLDER}/git npm_config_ignore_scripts=true\n'
)
"""The lines before the first command."""
ALONE: Final = f"NODE_OPTIONS=--require={FOLDER}/guard.js"
"""Before a command of Node: it starts no other program."""
