"""Reads a configuration file into `registry.config.Config`, or reports every problem in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from registry.check.checks import check_config, check_document, warn
from registry.check.problems import locate, problems_of
from registry.config import Config
from registry.file.document import Document, parse, read_text
from registry.importers.adopt import adopt, is_foreign
from registry.model.errors import ConfigError, KeyPath, Problem


def load_config(path: Path | str) -> Config:
    """The configuration in a YAML or JSON file. Raises ConfigError with all problems."""
    path = Path(path)
    return load_text(read_text(path), path)


def load_text(text: str, path: Path | str) -> Config:
    """The configuration in `text`, as if it stood in the file `path`. Raises ConfigError with all problems."""
    path = Path(path)
    return build(parse(text, str(path)), path)


def build(document: Document, path: Path) -> Config:
    """The configuration in a parsed file. Raises ConfigError with all problems, in file order."""

    check_document(document)
    foreign = is_foreign(document)
    document, notes = adopt(document)
    config, problems = examine(document, path)
    while foreign and (broken := servers_in(problems)):
        document, left_out = leave_out(document, broken, problems)
        notes += left_out
        config, problems = examine(document, path)
    if problems or config is None:
        raise ConfigError(in_order(problems))
    config._path, config._document = path.absolute(), document
    config._warnings = in_order([*notes, *warn(config, document)])
    return config


def examine(document: Document, path: Path) -> tuple[Config | None, list[Problem]]:
    """The valid part of the configuration, and every problem in it."""

    config, problems = validate(document, path.absolute().parent)
    return config, problems + (check_config(config, document, path) if config else [])


def in_order(problems: list[Problem]) -> tuple[Problem, ...]:
    return tuple(sorted(dict.fromkeys(problems), key=lambda problem: (problem.line, problem.column)))


def servers_in(problems: list[Problem]) -> set[str]:
    """The servers that the problems are about. (A name of a server has no dot.)"""
    parts = [problem.key_path.split(".") for problem in problems]
    return {path[1] for path in parts if path[0] == "mcpServers" and len(path) > 1}


def leave_out(document: Document, names: set[str], problems: list[Problem]) -> tuple[Document, list[Problem]]:
    """A client's file without the servers that cannot run behind a wall, and a warning for each reason."""
    kept = {name: entry for name, entry in document.value["mcpServers"].items() if name not in names}
    notes = [
        replace(problem, message=f"this server is left out: {problem.message}")
        for problem in problems
        if servers_in([problem])
    ]
    return replace(document, value={**document.value, "mcpServers": kept}), notes


def validate(document: Document, base: Path) -> tuple[Config | None, list[Problem]]:
    """The configuration and no problems; or the problems, and the configuration without its invalid parts."""

    raw = document.value
    try:
        return Config.model_validate(raw, context={"base": base}), []
    except ValidationError as error:
        problems = problems_of(error, raw, document)
        wrong = [locate(item["loc"], raw) for item in error.errors(include_url=False)]
    for depth in (
        3,
        2,
    ):  # without the wrong keys alone as much as possible is looked at; without all of an entry, the rest
        try:
            return Config.model_validate(without(raw, wrong, depth), context={"base": base}), problems
        except ValidationError:
            continue
    return None, problems


BEARING = frozenset({"command", "image", "url", "args", "entrypoint", "env", "type", "port"})
"""Keys of a server that others depend on: without one of them, more would seem to be wrong than is."""


def without(raw: dict[str, Any], paths: list[KeyPath], depth: int) -> dict[str, Any]:
    """The raw configuration without what the paths lead to: with `depth` 3 the key of a server or client, with 2 all of it;
    elsewhere the whole section."""
    pruned = {key: dict(value) if isinstance(value, dict) else value for key, value in raw.items()}
    for path in paths:
        match path:
            case ("mcpServers" | "clients" as section, name, *keys) if isinstance(pruned.get(str(section)), dict):
                entry = pruned[str(section)].get(name)
                if depth == 3 and keys and keys[0] not in BEARING and isinstance(entry, dict):
                    pruned[str(section)][name] = {key: value for key, value in entry.items() if key != keys[0]}
                else:
                    pruned[str(section)].pop(name, None)
            case (section, *_):
                pruned.pop(str(section), None)
            case _:
                return {}
    return pruned
