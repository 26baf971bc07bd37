"""The `stockade` command: which part of the tree of commands a line needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import typer

WITH_VALUE: Final = ("-f", "--file", "--project")
"""Options before the command that take another word."""
COMPLETES: Final = "_STOCKADE_COMPLETE"
"""Set where the shell asks for completions."""


def build(only: str | None = None) -> typer.Typer:
    """The whole command tree, or the part for this command; for "" the list of the commands."""
    from gateway.cli.tree import build as build_tree

    return build_tree(only)


def first_word(arguments: Sequence[str]) -> str:
    """The command in a line's words: what is no option and no option's value. Empty where there is none."""
    words = iter(arguments)
    for word in words:
        if word in WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return word
    return ""


def command_of(arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """The command that is called, or whose arguments are completed; empty for none, None where it is not known."""
    if COMPLETES not in environment:
        return first_word(arguments)
    typed = environment.get("COMP_WORDS", "").split()  # of bash; other shells get the whole tree
    place = environment.get("COMP_CWORD", "")
    return first_word(typed[1 : int(place)]) if place.isdigit() else None


def main() -> None:
    """The entry point of the `stockade` command."""
    arguments = sys.argv[1:]
    if arguments in (["version"], ["--version"]) and COMPLETES not in os.environ:
        from importlib.metadata import version

        sys.stdout.write(f"stockade {version('stockade')}\n")
        return
    build(command_of(arguments, os.environ))()


if __name__ == "__main__":
    main()
