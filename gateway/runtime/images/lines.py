"""Which lines of Python and Node there are, and which of them suits what a package or a person asks for. Pure.

A line is what is released as one: `3.13` of Python, `22` of Node. Which release of it a base has is known only once the base
is there, so a line suits where any of its releases may.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

PYTHON_LINES: Final = ("3.13", "3.14", "3.12", "3.11", "3.10")
"""In the order in which they are taken where the default does not suit: first the newest most packages have wheels for."""
PYTHON_SUITES: Final = {"3.11": "bookworm", "3.13": "trixie", "3.14": "forky"}
"""The suites of Debian that have a line, for where no registry of images answers."""
PYTHON_PULLED: Final = "3.12"
"""The default where a registry answers; elsewhere it is the line of bookworm."""
PYTHON_MADE: Final = "3.11"
NODE_LINES: Final = ("24", "22", "20")
"""Each has an image and a wheel on PyPI."""
NODE_PULLED: Final = "22"
NODE_MADE: Final = "24"

RELEASES: Final = range(1, 50)
"""Of a line of Python: none stays with its first for long, and none has had more."""
SPECIFIER: Final = re.compile(
    r"(~=|===?|!=|<=|>=|<|>)\s*v?(\d+(?:\.\d+)*)(\.\*)?(?:[a-z.+-][a-z0-9.+-]*)?", re.IGNORECASE
)
NAMED: Final = re.compile(r"(?:c?python)?[@ -]?v?(\d+(?:\.\d+){0,2})", re.IGNORECASE)
Version = tuple[int, ...]
Fits = Callable[[Version], bool]


def best_python(specifier: str, lines: Sequence[str] = PYTHON_LINES) -> str | None:
    """The first of these lines that suits a PEP 440 specifier (`>=3.10,<4`), or a version (`3.12`, `3.12.4`, `python3.12`).

    The first of all for an empty one. None where none suits, and where it is neither.
    """
    return next(iter(suitable_python(specifier, lines)), None)


def suitable_python(specifier: str, lines: Sequence[str] = PYTHON_LINES) -> tuple[str, ...]:
    """All of these lines that suit, in their order."""
    fits = python_test(specifier.strip())
    if fits is None:
        return ()
    return tuple(line for line in lines if any(fits((*numbers(line), release)) for release in RELEASES))


def best_node(wanted: str, lines: Sequence[str] = NODE_LINES) -> str | None:
    """The first of these lines that suits a range of npm's (`>=20`, `^18 || 22.x`, `20 - 22`), or a version (`22`).

    The first of all for an empty one. None where none suits, and where it is neither.
    """
    return next(iter(suitable_node(wanted, lines)), None)


def suitable_node(wanted: str, lines: Sequence[str] = NODE_LINES) -> tuple[str, ...]:
    """All of these lines that suit, in their order."""
    fits = node_test(wanted)
    if fits is None:
        return ()
    return tuple(line for line in lines if any(fits((int(line), *rest)) for rest in NODE_RELEASES))


def exact_release(version: str) -> str:
    """The release that is asked for, such as 3.12.4; empty where only its line is."""
    match = NAMED.fullmatch(version.strip())
    return match[1] if match and match[1].count(".") == 2 else ""


def line_of(version: str, parts: int) -> str:
    """The line of a release: its first `parts` numbers, 2 for Python and 1 for Node."""
    return ".".join(version.split(".")[:parts])


def listed(found: Sequence[str], last: str = "and") -> str:
    """Lines in words, the oldest first: `3.11, 3.13 and 3.14`."""
    words = sorted(found, key=numbers)
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def numbers(version: str) -> Version:
    """A version's numbers."""
    return tuple(int(part) for part in version.split("."))


def python_test(specifier: str) -> Fits | None:
    """Whether a release suits; None where the specifier is none."""
    if named := NAMED.fullmatch(specifier):  # which release the base has of that line is seen there
        return same_start(numbers(named[1])[:2])
    tests = []
    for clause in filter(None, (part.strip() for part in specifier.split(","))):
        match = SPECIFIER.fullmatch(clause)
        if match is None:
            return None
        tests.append(python_clause(match[1], numbers(match[2]), any_release=bool(match[3])))
    return lambda version: all(test(version) for test in tests)


def python_clause(operator: str, wanted: Version, *, any_release: bool) -> Fits:
    """One clause of a PEP 440 specifier."""
    if operator == "~=":
        return lambda version: version >= padded(wanted) and version[: len(wanted) - 1] == wanted[:-1]
    if operator in ("==", "==="):
        return same_start(wanted if any_release else padded(wanted))
    if operator == "!=":
        same = same_start(wanted if any_release else padded(wanted))
        return lambda version: not same(version)
    return compared(operator, padded(wanted))


def compared(operator: str, wanted: Version) -> Fits:
    """One of `<`, `<=`, `>`, `>=`."""
    if operator == "<":
        return lambda version: version < wanted
    if operator == "<=":
        return lambda version: version <= wanted
    if operator == ">":
        return lambda version: version > wanted
    return lambda version: version >= wanted


def same_start(wanted: Version) -> Fits:
    """Whether a version begins with these numbers."""
    return lambda version: version[: len(wanted)] == wanted


def padded(version: Version) -> Version:
    """With zeros up to three numbers."""
    return (*version, 0, 0)[: max(3, len(version))]


NODE_RELEASES: Final = tuple((minor, patch) for minor in range(40) for patch in range(12))
PART: Final = r"v?(?:\d+|[xX*])(?:\.(?:\d+|[xX*])){0,2}(?:[-+][0-9A-Za-z.+-]+)?"
COMPARATOR: Final = re.compile(rf"(\^|~>?|<=|>=|<|>|=)?\s*({PART})")
HYPHEN: Final = re.compile(rf"\s*({PART})\s+-\s+({PART})\s*")


def node_test(wanted: str) -> Fits | None:
    """Whether a release suits; None where the range is none."""
    if exact_release(wanted):
        return same_start(node_numbers(wanted.strip())[:1])
    tests = []
    for alternative in wanted.split("||"):
        test = node_alternative(alternative)
        if test is None:
            return None
        tests.append(test)
    return lambda version: any(test(version) for test in tests)


def node_alternative(text: str) -> Fits | None:
    """What stands between two `||`: comparators that all hold, or `A - B`."""
    if match := HYPHEN.fullmatch(text):
        low, high = node_numbers(match[1]), node_numbers(match[2])
        return lambda version: version >= padded(low) and (version <= high or version[: len(high)] == high)
    if COMPARATOR.sub("", text).strip():
        return None
    tests = [node_comparator(match[1] or "", node_numbers(match[2])) for match in COMPARATOR.finditer(text)]
    return lambda version: all(test(version) for test in tests)


def node_numbers(text: str) -> Version:
    """The numbers of a version before the first `x`."""
    found: list[int] = []
    for part in re.split(r"[-+]", text.lstrip("vV"))[0].split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)


def node_comparator(operator: str, wanted: Version) -> Fits:
    """One comparator: `^20.1`, `~22`, `>=18`, `20.x`, `*`."""
    if not wanted:
        return lambda version: operator not in ("<", ">")
    if operator == "^":
        return lambda version: version >= padded(wanted) and version[:1] == wanted[:1]
    if operator in ("~", "~>"):
        return lambda version: version >= padded(wanted) and version[: min(2, len(wanted))] == wanted[:2]
    if operator in ("<=", ">"):  # `<=20` takes all of 20, and `>20` none of it
        above = operator == ">"
        return lambda version: (version[: len(wanted)] > wanted) is above
    if operator in ("<", ">="):
        return compared(operator, padded(wanted))
    return same_start(wanted)
