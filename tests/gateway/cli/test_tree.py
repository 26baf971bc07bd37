"""A line loads the module of its own command, and that part of the tree is the same as in the whole."""

from __future__ import annotations

from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from gateway.cli.main import build, command_of, first_word
from gateway.cli.tree import COMMANDS, GROUPS

WHOLE: Any = typer.main.get_command(build())


def shape(command: Any) -> Any:
    """Everything that a person can type for it, and read about it."""
    options = [(param.name, tuple(param.opts), getattr(param, "help", "")) for param in command.params]
    return command.help, options, {name: shape(one) for name, one in getattr(command, "commands", {}).items()}


def test_the_table_names_each_command_once() -> None:
    named = [name for names in COMMANDS.values() for name in names] + list(GROUPS)
    assert sorted(named) == sorted(WHOLE.commands)


@pytest.mark.parametrize("name", [name for names in COMMANDS.values() for name in names] + list(GROUPS))
def test_the_part_is_as_in_the_whole(name: str) -> None:
    part: Any = typer.main.get_command(build(name))
    assert shape(part.commands[name]) == shape(WHOLE.commands[name])
    assert [param.name for param in part.params] == [param.name for param in WHOLE.params]


@pytest.mark.parametrize("name", [None, "pss", "--help"])
def test_what_is_no_command_gets_the_whole_tree(name: str | None) -> None:
    whole: Any = typer.main.get_command(build(name))
    assert set(whole.commands) == set(WHOLE.commands)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("ps --json", "ps"),
        ("-f ps logs fetch", "logs"),
        ("--project up --file=x ps", "ps"),
        ("-fx egress tail", "egress"),
        ("--help", ""),
        ("-f", ""),
        ("", ""),
    ],
)
def test_the_command_is_found_behind_options(line: str, word: str) -> None:
    assert first_word(line.split()) == word


def test_the_help_is_that_of_the_whole_tree() -> None:
    shown = [CliRunner().invoke(build(only), ["--help"], env={"COLUMNS": "80"}) for only in ("", None)]
    assert shown[0].exit_code == 0
    assert shown[0].output == shown[1].output


def test_a_completion_loads_the_module_of_what_is_typed_before_it() -> None:
    def asked(words: str, place: str) -> dict[str, str]:
        return {"_STOCKADE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": place}

    assert command_of([], asked("stockade logs f", "2")) == "logs"
    assert command_of([], asked("stockade -f ps logs f", "4")) == "logs"
    assert command_of([], asked("stockade logs", "1")) == "", "the command itself is being completed"
    assert command_of([], {"_STOCKADE_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "stockade logs f"}) is None
