"""Commands that only check: the configuration file, the machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.locate import display
from gateway.cli.options import FileOption, JsonOption, ProjectOption, place, say, screen


def register(app: typer.Typer) -> None:
    app.command()(validate)
    app.command()(doctor)


def validate(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(help="Configuration file.", show_default=False)] = None,
    file: FileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a configuration file: every problem, with line and key."""
    from registry.load import load_config
    from registry.model.errors import ConfigError
    from registry.secrets import SecretStore

    path = place(context, config or file, None).config()
    try:
        loaded = load_config(path)
    except ConfigError as error:
        _invalid(error, as_json)
        raise typer.Exit(1) from None
    warnings = [str(problem) for problem in (*loaded.warnings, *SecretStore().missing(loaded))]
    if as_json:
        screen.json({"valid": True, "problems": [], "warnings": warnings})
        return
    screen.line(f"{display(path)} is valid: {_count(loaded.servers, 'server')}, {_count(loaded.clients, 'client')}.")
    for text in warnings:
        screen.line(f"! {text}", "yellow")


def _invalid(error: Any, as_json: bool) -> None:
    if as_json:
        screen.json({"valid": False, "problems": [dataclasses.asdict(p) for p in error.problems], "warnings": []})
    else:
        say(f"Error: {error}")


def _count(things: Any, word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def doctor(
    context: typer.Context, file: FileOption = None, project: ProjectOption = None, as_json: JsonOption = False
) -> None:
    """Check the engine, this machine, and that the isolation holds.

    A container like a server's tries to reach the network, and must not.
    """
    import asyncio
    import importlib

    checks = importlib.import_module("gateway.runtime.doctor")
    where = place(context, file, project)
    findings = asyncio.run(checks.examine(where.project or "doctor"))
    if as_json:
        screen.json([{"name": f.name, "state": f.state, "detail": f.detail, "fix": f.fix} for f in findings])
    else:
        for finding in findings:
            style = {"ok": "green", "warn": "yellow"}.get(finding.state, "red")
            screen.line(f"{finding.state.upper():<5} {finding.name}: {finding.detail}", style)
            if finding.fix:
                screen.line(f"      {finding.fix}")
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)
