"""What the documents say is so: keys, links, files and commands."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main

from gateway.cli.main import build
from registry.schema.tables import fill, missing

ROOT = Path(__file__).parents[1]
CONFIGURATION = ROOT / "docs" / "configuration.md"
TRACKED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT, capture_output=True, text=True, check=True,
).stdout.splitlines()  # fmt: skip
PAGES = [name for name in TRACKED if name.endswith(".md") and "/vendor/" not in name and (ROOT / name).exists()]
SOURCES = [name for name in TRACKED if name.endswith(".py") and name.startswith(("gateway/", "registry/", "egress/"))]


def test_every_key_of_the_configuration_is_on_its_page_as_the_schema_has_it() -> None:
    text = CONFIGURATION.read_text()
    assert missing(text) == set()
    assert fill(text) == text, "run: python -m registry.schema.tables docs/configuration.md"


def test_every_variable_that_a_person_may_set_is_on_the_page() -> None:
    inside = {
        "DOOR",
        "DOORS_DIR",
        "GENERATION",
        "NONCE",
        "PORTS",
        "PROBE",
        "CONTROL_DIR",
        "LOOP",
        "USER",
        "COMPLETE",
    }  # in our containers, and what the shell sets to ask for completions
    found = {name for path in SOURCES for name in re.findall(r"STOCKADE_([A-Z_]+[A-Z])", (ROOT / path).read_text())}
    text = CONFIGURATION.read_text()
    assert {name for name in found - inside if f"`STOCKADE_{name}" not in text} == set()


# Links and files


def links() -> list[tuple[str, str]]:
    """(page, target) of every relative link and picture."""
    found = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
        targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text)
        found += [(page, one or other) for one, other in targets]
    return [(page, target) for page, target in found if not re.match(r"[a-z]+:", target)]


@pytest.mark.parametrize(("page", "target"), links())
def test_a_link_leads_somewhere(page: str, target: str) -> None:
    path, _, anchor = target.partition("#")
    file = (ROOT / page).parent / path if path else ROOT / page
    assert file.exists()
    if anchor:
        headings = re.findall(r"^#+ (.+)$", file.read_text(), flags=re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def named_files(page: str) -> list[str]:
    """What stands in backquotes and looks like a file or a folder of this repository."""
    spans = re.findall(r"`([^`\s]+)`", (ROOT / page).read_text())
    return sorted({span for span in spans if re.fullmatch(r"[\w.*-][\w./*-]*(/|\.(py|md|sh|yaml|json|toml))", span)})


@pytest.mark.parametrize("name", named_files("ARCHITECTURE.md"))
def test_a_file_that_the_architecture_names_exists(name: str) -> None:
    folders = {f"{parent}/" for path in TRACKED for parent in Path(path).parents}
    assert any(fnmatch(path, name) or fnmatch(path, f"*/{name}") for path in [*TRACKED, *folders])


@pytest.mark.parametrize("page", ["README.md", "AGENTS.md", "SECURITY.md", "docs/observability.md"])
def test_a_path_that_a_page_names_exists(page: str) -> None:
    tops = {path.split("/")[0] for path in TRACKED}
    spans = re.findall(r"`([\w.-]+/[\w./-]+)`", (ROOT / page).read_text())
    assert [span for span in spans if span.split("/")[0] in tops and not (ROOT / span).exists()] == []


# Commands

CLI: Any = typer.main.get_command(build())
USAGE_ERROR: Any = typer.BadParameter.__bases__[0]
HELP_WIDTH = 78
"""Columns that help has on a terminal of 80."""
SYNOPSIS = re.compile(r"[\[|…]|COMMAND")


def shown(text: str) -> list[tuple[str, bool]]:
    """Every `stockade …` in a page, and whether it is whole (in a block) or may be a mere mention (in a sentence)."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    whole = [(line, True) for line in lines if line.startswith("stockade ")]
    rest = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return whole + [(" ".join(span.split()), False) for span in re.findall(r"`(stockade\s[^`]+)`", rest)]


def in_pages() -> list[tuple[str, str, bool]]:
    return [
        (page, command, whole)
        for page in PAGES
        for command, whole in shown((ROOT / page).read_text())
        if not SYNOPSIS.search(command)
    ]


def in_messages() -> list[tuple[str, str, bool]]:
    """Commands that an error message or a comment tells a person to run; a value that is filled in stands as x."""
    found = []
    for path in SOURCES:
        text = re.sub(r'"\s*\n\s*f?"', "", (ROOT / path).read_text())
        spans = re.findall(r"`(?:sudo )?(stockade [^`\"\n]+)`|(?:Run|it|first): (stockade [a-z][^\"\n.;(,]+)", text)
        found += [
            (path, re.sub(r"\{[^}]*\}+", "x", one or other), False) for one, other in spans if "{flag}" not in other
        ]
    return [item for item in found if not SYNOPSIS.search(item[1])]


@pytest.mark.parametrize(("place", "command", "whole"), [*in_pages(), *in_messages()])
def test_a_command_that_is_shown_parses(place: str, command: str, whole: bool) -> None:
    words = shlex.split(command.partition(" < ")[0], comments=True)[1:]
    if {"--install-completion", "--show-completion"} & set(words):
        return  # these act while they are parsed, on the shell's own files of whoever runs the tests
    try:
        parse(words)
    except USAGE_ERROR as error:
        if whole or type(error).__name__ != "MissingParameter":
            pytest.fail(f"{place}: {command}: {error.format_message()}")


def parse(words: list[str]) -> None:
    """Parse as the command line would, and run nothing. Raises USAGE_ERROR."""
    if len(words) == 1 and any(words[0] in option.opts for option in CLI.params):
        return  # parsing such as --version or --install-completion does what it says
    command, context = CLI, CLI.make_context("stockade", words)
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        if not rest:
            return
        name, inner, words = command.resolve_command(context, rest)
        context = inner.make_context(name, words, parent=context)
        command = inner


# Help


def walk(command: Any, name: str = "stockade") -> Iterator[tuple[str, Any]]:
    """Every command and group of the tree."""
    yield name, command
    for part, child in getattr(command, "commands", {}).items():
        yield from walk(child, f"{name} {part}")


def test_no_line_of_a_list_of_commands_is_cut_off() -> None:
    cut = {}
    for name, group in walk(CLI):
        children = getattr(group, "commands", {})
        room = HELP_WIDTH - 6 - max(map(len, children), default=0)
        for part, child in children.items():
            short = child.get_short_help_str(room)
            if not short or not short.endswith(".") or short.endswith("..") or not child.help.startswith(short):
                cut[f"{name} {part}"] = short
    assert cut == {}


def test_every_option_has_a_sentence_of_help() -> None:
    without = [
        (name, param.name, text)
        for name, command in walk(CLI)
        for param in command.params
        if not getattr(param, "hidden", False)
        and (not (text := getattr(param, "help", None)) or not text.endswith(".") or text.count("\n"))
    ]
    assert without == []
