"""docs/cli.md has every command and every option, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from gateway.cli.main import build

TEXT = (Path(__file__).parents[3] / "docs/cli.md").read_text()
EVERYWHERE = {"--file", "--project", "--json", "--dry-run", "--yes", "--help"}


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for part, child in inner.items():
        yield from commands(child, f"{name} {part}")


ALL = dict(commands(typer.main.get_command(build()), "stockade"))


def sections() -> dict[str, str]:
    parts = re.split(r"^### (.+)$", TEXT, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_command_has_a_heading_and_every_heading_a_command() -> None:
    assert set(sections()) == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_every_option_of_a_command_is_in_its_section(name: str) -> None:
    section = sections()[name]
    options = {
        text for param in ALL[name].params for text in getattr(param, "opts", []) if not getattr(param, "hidden", 0)
    }
    missing = {text for text in options if text.startswith("--") and text not in EVERYWHERE and text not in section}
    assert missing == set()


@pytest.mark.parametrize("name", ALL)
def test_every_command_says_what_it_does(name: str) -> None:
    assert ALL[name].help


def test_the_options_that_many_commands_share_are_explained_once() -> None:
    head = TEXT.split("\n## ")[0]
    assert {text for text in EVERYWHERE if text not in head and text != "--help"} == set()
