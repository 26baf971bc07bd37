"""The errors for commands that have no meaning in a container, each with the next step."""

from __future__ import annotations

from typing import Final

from registry.model.errors import Invalid
from registry.model.forms.words import Command

IMAGE: Final = "If it has a container image, write image: ghcr.io/OWNER/NAME:TAG; if not, build one and name it there"
INSIDE: Final = "Write the command that it starts: uvx, npx, uv run, node or docker run, with its arguments in args"
HINTS: Final = {
    **dict.fromkeys(("bash", "sh", "zsh", "dash", "ash", "ksh", "fish"), INSIDE),
    **dict.fromkeys(("cmd", "powershell", "pwsh", "env", "wsl", "mise", "start"), INSIDE),
    **dict.fromkeys(("sudo", "doas", "su"), "Remove it: a server needs no rights of this machine in its container"),
    "op": "Remove it, and write what it fills in as ${secret:NAME} under env",
    "doppler": "Remove it, and write what it fills in as ${secret:NAME} under env",
    "infisical": "Remove it, and write what it fills in as ${secret:NAME} under env",
    "dotenv": "Write the command after it, and its variables under env",
    "java": "Build an image with the jar (FROM eclipse-temurin:21-jre), and write image: with its name",
    "dotnet": "Build an image of it (`dotnet publish --os linux /t:PublishContainer`), and write image: with its name",
    "go": "Build an image with the program (FROM golang), and write image: with its name",
    "cargo": "Build an image with the program (FROM rust), and write image: with its name",
    "ruby": "Build an image with it (FROM ruby), and write image: with its name",
    "php": "Build an image with it (FROM php), and write image: with its name",
    "perl": "Build an image with it (FROM perl), and write image: with its name",
    **dict.fromkeys(("pip", "pip3"), "Write command: uvx, and the package as the first of args"),
    **dict.fromkeys(
        ("mcp", "fastmcp"), "Write command: uv, args: [run, --with, NAME, NAME, run, FILE], with this NAME"
    ),
    **dict.fromkeys(("pipenv", "rye", "pixi", "conda", "mamba"), "Write the Python of its environment by its path"),
    **dict.fromkeys(("nvm", "fnm", "volta", "asdf"), "Write the command after it; node: sets the version of Node"),
}
"""By the program's name."""


def unknown_command(command: Command) -> Invalid:
    """The error for a command that has no meaning in a container, with the nearest thing that has."""
    name = command.name or (command.server.command or "").strip()
    place = command.words.place(0)
    message = f"{name!r} is a program of this machine, and the server runs in a container that does not have it"
    whole = command.words.text(0)
    hint = HINTS.get(name) or (IMAGE if "/" in whole or "\\" in whole else f"{PACKAGE}. {IMAGE}")
    return Invalid(message, hint, path=place)


PACKAGE: Final = "If it is a package, write command: uvx (PyPI) or command: npx (npm) with its name in args"
