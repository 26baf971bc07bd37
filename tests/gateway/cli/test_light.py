"""Words of the command line become the same values as typer would make of them, and a wrong one is told in plain words."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from gateway.cli.options import Group


class Shade(StrEnum):
    DARK = "dark"
    LIGHT = "light"


def values(cls: Any, arguments: list[str]) -> tuple[int, dict[str, Any], str]:
    """Exit code, what a command with every kind of parameter gets, and standard error."""
    seen: dict[str, Any] = {}
    app = typer.Typer(cls=cls, rich_markup_mode=None, pretty_exceptions_enable=False)

    @app.command()
    def other() -> None: ...

    @app.command()
    def command(
        words: Annotated[list[str] | None, typer.Argument()] = None,
        count: Annotated[int, typer.Option("--count", "-n")] = 3,
        hours: Annotated[float, typer.Option()] = 1.5,
        file: Annotated[Path | None, typer.Option()] = None,
        name: Annotated[str | None, typer.Option()] = None,
        host: Annotated[list[str] | None, typer.Option()] = None,
        shade: Annotated[Shade | None, typer.Option()] = None,
        both: Annotated[bool, typer.Option("--yes/--no")] = True,
        flag: Annotated[bool, typer.Option("--flag")] = False,
    ) -> None:
        seen.update(locals())
        del seen["seen"]

    result = CliRunner().invoke(app, ["command", *arguments])
    return result.exit_code, seen, result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a", "b", "-n", "7", "--hours", "2", "--file", "x/y", "--name", "", "--host", "h", "--host", "i"],
        ["--shade", "dark", "--no", "--flag", "--hours", "-0.25", "-n", "-1"],
        ["--help"],
    ],
    ids=" ".join,
)
def test_the_values_are_those_that_typer_makes(arguments: list[str]) -> None:
    plain = values(typer.core.TyperGroup, arguments)
    ours = values(Group, arguments)
    assert ours == plain
    assert {key: type(value) for key, value in ours[1].items()} == {k: type(v) for k, v in plain[1].items()}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["-n", "x"], "'x' is not a whole number."),
        (["-n", "2.5"], "'2.5' is not a whole number."),
        (["--hours", "soon"], "'soon' is not a number."),
        (["--shade", "grey"], "'grey' is not one of 'dark', 'light'."),
    ],
)
def test_a_wrong_word_is_told_in_plain_words(arguments: list[str], why: str) -> None:
    code, _, err = values(Group, arguments)
    assert code == 2
    assert f"Invalid value for '{arguments[0] if arguments[0].startswith('--') else '--count'}" in err
    assert why in err
