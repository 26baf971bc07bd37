"""What a server's last lines say of its end: the lines that tell why, and advice for a program that its image lacks. Pure.

A server's own output is read for advice to people only; nothing is decided by it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

KEPT_LINES: Final = 60
"""How many of the last lines should be given: Node prints an error's fields and stack after it."""
SHOWN_LINES: Final = 3
COLOURS: Final = re.compile(r"(?:\x1b|\N{REPLACEMENT CHARACTER})\[[0-9;]*m")
TRACEBACK: Final = re.compile(r"^(?:\s*\|? ?|\s*\+ Exception Group )Traceback \(most recent call last\):")
RAISED: Final = re.compile(r"^[ |+-]*(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:: .*|:)?$")
"""The line that ends a Python traceback."""
GROUP: Final = re.compile(r"(?:Base)?ExceptionGroup: ")
THROWN: Final = re.compile(r"^(?:Uncaught )?(?:\w*Error|AggregateError|\w*Exception)(?: \[\w+\])?: ")
"""An error as JavaScript prints it."""
CAUSE: Final = re.compile(r"^\[?(?:cause|errors)\]?: (?:\[ *)?(?=\w*Error)")
STRONG: Final = re.compile(r"(?i)^panic: |\b(?:fatal|panicked|critical)\b|^(?:\S+ )*error[\]:!]|\berror: ")
WEAK: Final = re.compile(
    r"(?i)\b(?:error|failed|cannot|can't|could not|unable to|refused|denied|required|missing|invalid|must be|not found|"
    r"no such|not set|unauthorized|forbidden|exception)\b"
)
NOISE: Final = re.compile(
    r"^(?:at |File \"|node:internal|Node\.js v|Picked up \w+: |Traceback |During handling|The above exception|goroutine \d"
    r"|npm (?:error|ERR!) (?:A complete|code|path|command)|[\W_]*$"
    r"|(?:stdout|stderr|output|pid|status|signal|errno|code|syscall|path|spawnargs)"
    r": |throw |triggerUncaught|note: run with `RUST_BACKTRACE|exit status \d)"
)
DETAILED: Final = re.compile(r":$|validation errors? for ")
"""An error whose reason stands in the lines below it."""

PACKAGES: Final = {
    name: package
    for package, names in {
        "awscli": "aws",
        "build-essential": "gcc g++ cc make",
        "cargo": "cargo rustc",
        "chromium": "chromium chromium-browser chrome google-chrome google-chrome-stable",
        "chromium-driver": "chromedriver",
        "curl": "curl",
        "default-jre-headless": "java",
        "default-mysql-client": "mysql mysqldump",
        "ffmpeg": "ffmpeg ffprobe avconv",
        "firefox-esr": "firefox",
        "gh": "gh",
        "git": "git",
        "git-lfs": "git-lfs",
        "golang-go": "go",
        "graphviz": "dot",
        "imagemagick": "convert magick identify",
        "jq": "jq",
        "kubernetes-client": "kubectl",
        "libreoffice": "libreoffice soffice",
        "nodejs": "node nodejs",
        "npm": "npm npx",
        "openssh-client": "ssh scp ssh-keyscan",
        "pandoc": "pandoc",
        "php-cli": "php",
        "poppler-utils": "pdftotext pdftoppm pdfinfo poppler",
        "postgresql-client": "psql pg_dump",
        "procps": "ps top",
        "python3": "python3 python",
        "r-base-core": "R Rscript",
        "redis-tools": "redis-cli",
        "ripgrep": "rg",
        "rsync": "rsync",
        "ruby": "ruby gem",
        "sqlite3": "sqlite3",
        "tesseract-ocr": "tesseract",
        "unzip": "unzip",
        "wget": "wget",
        "wkhtmltopdf": "wkhtmltopdf",
        "xdg-utils": "xdg-open",
        "zip": "zip",
    }.items()
    for name in names.split()
}
"""Program -> the Debian package that has it."""

BROWSER: Final = "chromium"
NAME: Final = r"[A-Za-z0-9][\w.+-]*"
BIN: Final = r"(?:/(?:usr/)?(?:local/)?s?bin/)?"
CHECKED: Final = "checked"
"""The group's name where the words are also said of a file: then the program must be a known one."""


@dataclass(frozen=True, slots=True)
class Sign:
    """Words by which programs say that another program is missing."""

    pattern: re.Pattern[str]
    program: str = ""
    """Which; empty: the pattern's group names it."""


SIGNS: Final = tuple(
    Sign(re.compile(pattern, re.MULTILINE), program)
    for pattern, program in (
        (r"Bad git executable", "git"),
        (rf"\bspawn(?:Sync)? {BIN}(?P<name>{NAME}) ENOENT", ""),
        (rf"\b(?:sh|bash|dash|ash|zsh)(?:: (?:line )?\d+)?: {BIN}(?P<name>{NAME}): (?:command )?not found", ""),
        (rf"\bzsh:(?:\d+:)? command not found: (?P<name>{NAME})", ""),
        (rf"\benv: ['\u2018\"]?(?P<name>{NAME})['\u2019\"]?: No such file or directory", ""),
        (rf'\bexec: "{BIN}(?P<name>{NAME})": executable file not found', ""),
        (rf"No such file or directory: ['\"]{BIN}(?P<{CHECKED}>{NAME})['\"]", ""),
        (rf"(?i)^(?:\w*error: )?(?:command |program |executable )?not found: (?P<{CHECKED}>{NAME})$", ""),
        (rf"(?i)\b(?P<{CHECKED}>{NAME}) (?:is|was) not (?:installed|found|available) (?:or|on|in|and)\b.*\bPATH\b", ""),
        (
            rf"(?i)\b(?:could not|couldn't|cannot|unable to) find (?:the )?(?P<{CHECKED}>{NAME})"
            r"(?: (?:executable|binary|or)|$)",
            "",
        ),
        (r"(?i)\bis poppler installed and in path", "poppler"),
        (
            r"(?i)could not find (?:google )?chrom(?:e|ium)|chrom(?:e|ium) (?:distribution .{0,40})?(?:is |was )?not found"
            r"|no (?:usable )?(?:chrome|chromium|browser)[a-z ]* (?:installed|found)|playwright install"
            r"|executable doesn't exist at \S*chrom",
            BROWSER,
        ),
    )
)  # fmt: skip


def last_words(lines: Sequence[str], *, builds: bool = True, packages: Sequence[str] = ()) -> str:
    """Sentences for the end of a server with these last lines: what it printed, and advice; empty without any lines.

    `builds`: its image is made by Stockade, with the Debian `packages` of its entry.
    """
    shown = telling(lines)
    if not shown:
        return ""
    said = f"It printed: {' / '.join(shown)}"
    program = missing_program(lines)
    return " ".join(filter(None, [said if said.endswith((".", "!", "?")) or not program else f"{said}.",
                                  remedy(program, builds, packages) if program else ""]))  # fmt: skip


def telling(lines: Sequence[str]) -> list[str]:
    """The lines that say why, in their order: at most `SHOWN_LINES`."""
    bare = [COLOURS.sub("", line).rstrip() for line in lines]
    at = raised_at(bare)
    if at is None:
        at = thrown_at(bare)
    if at is None:
        strong = [line.strip() for line in bare if STRONG.search(line.strip()) and not NOISE.match(line.strip())]
        weak = [line.strip() for line in bare if WEAK.search(line) and not NOISE.match(line.strip())]
        useful = [line.strip() for line in bare if line.strip() and not NOISE.match(line.strip())]
        return (
            list(dict.fromkeys(strong or weak or useful))[-SHOWN_LINES:]
            or [one for one in bare if one][-SHOWN_LINES:]
        )
    found = [bare[at].strip(" |+-")]
    below = [line.strip(" |") for line in bare[at + 1 :] if line.strip(" |") and not NOISE.match(line.strip(" |"))]
    if DETAILED.search(found[0]):
        found += below[: SHOWN_LINES - 1]
    causes = [line for line in below if CAUSE.match(line)]
    return (found + [CAUSE.sub("caused by ", line).rstrip(" {[") for line in causes[:1]])[:SHOWN_LINES]


def raised_at(lines: Sequence[str]) -> int | None:
    """Where the last Python traceback names its exception."""
    starts = [at for at, line in enumerate(lines) if TRACEBACK.match(line)]
    for start in reversed(starts):
        indent = len(lines[start]) - len(lines[start].lstrip(" |+-"))
        for at in range(start + 1, len(lines)):
            inner = lines[at][indent:] if lines[at][:indent].strip(" |+-") == "" else lines[at]
            if inner and not inner[0].isspace() and RAISED.match(inner) and not GROUP.match(inner):
                return at
    return None


def thrown_at(lines: Sequence[str]) -> int | None:
    """Where the last error of JavaScript begins; one that is only logged has no stack, and counts as well."""
    found = [at for at, line in enumerate(lines) if THROWN.match(line.strip()) and not CAUSE.match(line.strip())]
    outer = [at for at in found if not lines[at][:1].isspace()]
    return max(outer or found, default=None)


def missing_program(lines: Sequence[str]) -> str:
    """The program that the lines say is missing; empty when they say no such thing."""
    text = COLOURS.sub("", "\n".join(lines))
    for sign in SIGNS:
        for found in sign.pattern.finditer(text):
            name = sign.program or found.group(1)
            known = name in PACKAGES or "_execute_child" in text
            if CHECKED not in found.groupdict() or known:
                return name
    return ""


def remedy(program: str, builds: bool, packages: Sequence[str]) -> str:
    """What to do about it."""
    package = PACKAGES.get(program, "")
    if not builds:
        return f"{program} is not in its image: take an image that has it."
    if package and package in packages:
        where = "/usr/bin/chromium" if package == BROWSER else "in /usr/bin"
        return f"{program} is in its image, {where}: tell the server so (its documentation names the option)."
    if package == BROWSER:
        return "A browser is not in its image: add `packages: [chromium]`; most servers then find it by themselves."
    listed = ", ".join([*packages, package])
    if package:
        return f"{program} is not in its image: add `packages: [{listed}]`."
    return f"{program} is not in its image: add the Debian package that has it under `packages`, or use an `image` with it."
