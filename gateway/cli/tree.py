"""The tree of commands. For one command only its own module is loaded: the others cost more than most commands do."""

from __future__ import annotations

import importlib
from typing import Annotated, Final

import typer

from gateway.cli.locate import Place
from gateway.cli.options import FileOption, Group, ProjectOption

ABOUT: Final = "An MCP gateway that keeps every local MCP server behind a wall."
COMMANDS: Final = {
    "lifecycle": {
        "up": "Start the gateway and its servers.",
        "down": "Stop the gateway and remove what it started.",
        "reload": "Read the configuration again and apply it.",
        "version": "Print the version.",
    },
    "backends": {
        "ps": "List servers with their state and warnings.",
        "logs": "Show what a server printed.",
        "restart": "Restart a server.",
    },
    "inspect": {
        "validate": "Check a configuration file: every problem, with line and key.",
        "doctor": "Check the engine, this machine, and that the isolation holds.",
    },
    "catalog": {
        "search": "Search the catalog of well-known servers.",
        "info": "Show a catalog server: its tools, its hosts, what it needs.",
        "run": "Add a server from the catalog, and start it.",
        "rm": "Remove a server from the file and stop it.",
    },
    "importing": {
        "import": "Import the servers in an AI client's own file, isolated.",
    },
    "connect": {
        "connect": "Configure AI clients to use the gateway (asks first).",
        "disconnect": "Remove Stockade from AI clients' files; revoke their tokens.",
    },
    "bridge": {
        "bridge": "Speak MCP on stdin and stdout, to clients that start programs.",
    },
}
"""Modules of this folder, and the commands that each one registers, with the first line of their help."""
GROUPS: Final = {
    "egress": ("egress", "register", "What servers connect to, and what they may connect to."),
    "tools": ("backends", "register_tools", "List the servers' tools; approve changed definitions."),
    "client": ("clients", "register", "Manage AI clients and their tokens."),
    "secret": ("secrets", "register", "Manage the secrets that `${secret:NAME}` refers to."),
    "admin": ("lifecycle", "register_admin", "Manage the token of the admin page."),
}
"""Groups of commands: the module, its function, and the help."""


def build(only: str | None = None) -> typer.Typer:
    """The tree: all of it, or what is needed for this command or group, if there is one of that name.

    With "" it is the list of commands alone, which is what help shows: none of them can be run.
    """
    app = _typer(ABOUT)
    app.callback()(root)
    if only == "":
        for names in COMMANDS.values():
            for name, about in names.items():
                app.command(name=name, help=about)(_listed)
        for name, (_, _, about) in GROUPS.items():
            app.command(name=name, help=about)(_listed)
        return app
    whole = only not in GROUPS and not any(only in names for names in COMMANDS.values())
    for module, names in COMMANDS.items():
        if whole or only in names:
            _function(module, "register")(app)
    for name, (module, function, about) in GROUPS.items():
        if whole or only == name:
            group = _typer(about)
            _function(module, function)(group)
            app.add_typer(group, name=name)
    return app


def _listed() -> None:
    """Stands for a command where only its name and its help are wanted."""


def _function(module: str, name: str):  # type: ignore[no-untyped-def]  # a register function, which takes a Typer
    return getattr(importlib.import_module(f"gateway.cli.{module}"), name)


def _typer(about: str) -> typer.Typer:
    return typer.Typer(
        cls=Group,
        help=about,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _print_version(context: typer.Context, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:  # not while the shell asks for completions
        from gateway.cli import lifecycle

        lifecycle.version()
        raise typer.Exit


def root(
    context: typer.Context,
    file: FileOption = None,
    project: ProjectOption = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """An MCP gateway that keeps every local MCP server behind a wall."""
    context.obj = Place(file=file, project=project)
