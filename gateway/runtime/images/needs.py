"""What an installation that failed would need: another line of its language, a newer one than there is, a compiler.

Its script ends with an exit code of ours and leaves a file, so that nothing is read from what was printed. Code of packages
runs beside that script and may write the file, so it is read as no more than a choice among the lines that there are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from gateway.runtime.images.lines import NODE_LINES, PYTHON_LINES, listed, numbers

NEEDED_FILE: Final = "/opt/stockade/needed"
"""Written by a script that ends with one of the codes below."""
OTHER_LINE, NO_LINE, COMPILER, OTHER_RELEASE = 91, 92, 93, 94
MOST: Final = 4096
"""Bytes that are read of the archive with that file."""

ASKED_FOR: Final = "/tmp/stockade-compiler"  # noqa: S108  # of a container that is thrown away
"""Made when something that is installed calls a compiler."""
COMPILER_PACKAGES: Final = ("build-essential", "pkg-config", "python3", "python3-dev")
"""Debian's, in the image that is installed in, and not in the server's."""
ABSENT: Final = {
    kind: (
        *("cc", "gcc", "g++", "c++", "clang", "make", "pkg-config"),
        *(f"{machine}-linux-gnu-{compiler}" for machine in ("x86_64", "aarch64") for compiler in ("gcc", "g++")),
        *more,
    )
    for kind, more in (("uvx", ()), ("npx", ("python3",)))
}
"""What native builds call. At the end of PATH each is a script that notes the call and fails, as if it was not there."""
CALLED_COMPILER: Final = f"[ -e {ASKED_FOR} ] && ! {{ [ -x /usr/bin/cc ] && [ -x /usr/bin/make ]; }}"
"""Whether a compiler was called that was not there, in a script."""


@dataclass(frozen=True, slots=True)
class OtherLine:
    """It installs, as far as its index says, on these lines; not on the one that it was tried on."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NoLine:
    """It installs on no line that there is; on this one it would."""

    line: str


@dataclass(frozen=True, slots=True)
class OtherRelease:
    """The base has this release of the line, and another one was named."""

    release: str


@dataclass(frozen=True, slots=True)
class Compiler:
    """It was built from source, and a compiler was called."""


Need = OtherLine | NoLine | OtherRelease | Compiler


def need_of(exit_code: int, written: str) -> Need | None:
    """What an installation needed that ended with this code, and wrote this into its file; None: nothing that is known."""
    if exit_code == COMPILER:
        return Compiler()
    words = written.split()
    if exit_code == OTHER_LINE and (lines := tuple(word for word in words if word in (*PYTHON_LINES, *NODE_LINES))):
        return OtherLine(tuple(dict.fromkeys(lines)))
    if len(words) != 1 or not re.fullmatch(r"\d{1,3}(\.\d{1,3}){0,2}", words[0]):
        return None
    if exit_code == NO_LINE:
        return NoLine(words[0])
    return OtherRelease(words[0]) if exit_code == OTHER_RELEASE else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmet:
    """A need that stays, with what a person has to know of it."""

    need: Need
    language: Literal["Python", "Node"]
    named: str
    """The version that the entry names, or empty."""
    there: tuple[str, ...]
    """The lines that can be had here."""

    def meaning(self) -> str:
        """What it needs, what there is, and the next step."""
        there = f"There is {self.language} {listed(self.there)}."
        other = f"{there} Name an older version of the package, or give it as `image:`."
        if isinstance(self.need, OtherRelease):
            line = ".".join(self.named.split(".")[: 2 if self.language == "Python" else 1])
            return (
                f"{self.language} {self.named} was asked for, and the base image of that line has {self.need.release}. "
                f'Ask for the line ("{line}"), or give it as `image:`.'
            )
        if isinstance(self.need, NoLine):
            return f"It needs {self.language} {self.need.line} or newer, which no base image has. {other}"
        if isinstance(self.need, OtherLine):
            had = [line for line in self.need.lines if line in self.there]
            fitting = listed(had or self.need.lines, "or")
            if self.named and had:
                option = "`-p` or `python:`" if self.language == "Python" else "`node:`"
                return (
                    f"{self.language} {self.named} was asked for, and it installs on {fitting}. Name such a version with "
                    f"{option}, or none."
                )
            return f"It installs on {self.language} {fitting}. {other}"
        return "It is built from source, and its build calls a compiler that is not there. Give it as `image:`."


def release_check(program: str, release: str) -> str:
    """Lines of a script that end it where the program is not of the release that was named."""
    if not release:
        return ""
    ask = {
        "python3": "python3 -c 'import platform; print(platform.python_version())'",
        "node": "node -p process.versions.node",
    }[program]
    return (
        f'there="$({ask})"\n[ "$there" = {release} ] || {{ echo "$there" > {NEEDED_FILE}; exit {OTHER_RELEASE}; }}\n'
    )


def scripts() -> Mapping[str, bytes]:
    """The files of a builder that find out what was needed."""
    beyond = numbers(max(PYTHON_LINES, key=numbers))[1] + 1
    text = WHY_PYTHON
    for name, value in {
        "CALLED_COMPILER": CALLED_COMPILER,
        "NEEDED_FILE": NEEDED_FILE,
        "LINES": " ".join(PYTHON_LINES),
        "BEYOND": " ".join(f"3.{minor}" for minor in range(beyond, beyond + 5)),
        "OTHER_LINE": str(OTHER_LINE),
        "NO_LINE": str(NO_LINE),
        "COMPILER": str(COMPILER),
    }.items():
        text = text.replace(f"@{name}@", value)
    absent = f'#!/bin/sh\n: > {ASKED_FOR}\necho "$(basename "$0"): there is no such program here" >&2\nexit 127\n'
    return {"why.sh": text.encode(), "absent.sh": absent.encode()}


WHY_PYTHON: Final = """\
# Ends with the code of an installation that failed, or with what it needed. Arguments: code, uv's options, requirements.
code=$1 options=$2
shift 2
! { @CALLED_COMPILER@; } || exit @COMPILER@
unset UV_NO_CACHE UV_COMPILE_BYTECODE
export UV_CACHE_DIR=/tmp/why UV_HTTP_RETRIES=0
printf '%s\\n' "$@" > /tmp/why.txt
suits() {
    timeout 60 /opt/uv/bin/uv pip compile -q $options $2 --python-version "$1" /tmp/why.txt -o /dev/null > /dev/null 2>&1
}
here="$(python3 -c 'import platform; print(platform.python_version())')"
for how in "" --no-deps; do
    said=0
    suits "$here" "$how" || said=$?
    [ "$said" != 0 ] || exit "$code"
    [ "$said" = 1 ] || { [ -z "$how" ] && continue; exit "$code"; }
    found=""
    for line in @LINES@; do
        case "$here" in "$line".*) continue;; esac
        ! suits "$line.99" "$how" || found="$found $line"
    done
    [ -z "$found" ] || { echo $found > @NEEDED_FILE@; exit @OTHER_LINE@; }
done
for line in @BEYOND@; do
    ! suits "$line.99" --no-deps || { echo "$line" > @NEEDED_FILE@; exit @NO_LINE@; }
done
exit "$code"
"""
