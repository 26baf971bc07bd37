"""Options that many commands share, and the group class that turns failures into exit codes.

Exit codes: 0 done, 1 failed (one clear sentence on stderr), 2 wrong usage.
"""

from __future__ import annotations

import errno
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gateway.cli import names
from gateway.cli.failure import Failure, Refused, Unreachable
from gateway.cli.light import lighten
from gateway.cli.locate import Place
from gateway.cli.outside import started_outside
from gateway.cli.terminal import Screen, clean_lines
from gateway.disk import in_words

ServerArgument = Annotated[str, typer.Argument(metavar="NAME", help="The server.", autocompletion=names.servers)]
FileOption = Annotated[Path | None, typer.Option("--file", "-f", help="Configuration file.", show_default=False)]
FileNoShort = Annotated[Path | None, typer.Option("--file", help="Configuration file.", show_default=False)]
ProjectOption = Annotated[
    str | None, typer.Option("--project", help="Project name, instead of --file.", show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new entries.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the change without writing it.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]

TROUBLED = ("failed", "backoff")

screen = Screen()


def place(context: typer.Context, file: Path | None, project: str | None) -> Place:
    """The command's own options, else those before the command (`stockade -f FILE ps`)."""
    outer = context.find_root().obj
    assert isinstance(outer, Place)
    return Place(file=file or outer.file, project=project or outer.project)


def say(message: str) -> None:
    """Print a line to stderr: progress and remarks, so that stdout holds only what was asked for."""
    text = clean_lines(message)
    encoding = sys.stderr.encoding or "utf-8"
    sys.stderr.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stderr.flush()


def confirmed(question: str, yes: bool, *, look: str = "--dry-run") -> bool:
    """Ask once. Raises Failure without a terminal, naming `look`, the command's option that only shows, if it has one."""
    if yes:
        return True
    if not sys.stdin.isatty():
        only_show = f", or {look} to only show it" if look else ""
        raise Failure(f"{question} There is no terminal to answer on: add --yes to do it{only_show}.")
    return typer.confirm(question)


def addresses(endpoint: str, admin: str) -> None:
    """Print a gateway's addresses."""
    screen.line(f"Endpoint  {endpoint}")
    screen.line(f"Admin     {admin}")


def first_token(admin_file: Path) -> None:
    """Make and print the token of the admin page, if there is none and a person sees it.

    Where standard output is no terminal it ends in a journal or a log that others read, so none is made there.
    """
    from gateway.control.auth import AdminToken

    token = AdminToken(admin_file)
    if token.stored():
        return
    if sys.stdout.isatty():
        screen.line(f"Token     {token.renew()}   (for the admin page; shown only now)")
    else:
        screen.line("Token     none yet; this makes one for the admin page: stockade admin token --new")


def summary(backends: Collection[Mapping[str, Any]]) -> None:
    """Print how many servers are in which state, and in full what is wrong with those that do not run."""
    states = Counter(shown_state(backend) for backend in backends)
    if states:
        screen.line(f"Servers   {', '.join(f'{count} {state}' for state, count in states.items())}")
    for text in troubles(backends):
        say(text)
    names = [str(backend["name"]) for backend in backends]
    for one in started_outside():
        say(f"! {one.sentence(names)}")


def shown_state(backend: Mapping[str, Any]) -> str:
    """A server's state in people's words."""
    if backend["state"] == "stopped" and backend["detail"]:
        return str(backend["detail"])  # disabled, or: starts at first call
    return "restarting" if backend["state"] == "backoff" else str(backend["state"])


def failed(backends: Iterable[Mapping[str, Any]]) -> list[str]:
    """The servers that do not run and should: failed, or crashing again and again."""
    return [str(backend["name"]) for backend in backends if backend["state"] in TROUBLED]


def troubles(backends: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is wrong with each server that failed or is being restarted: a paragraph each."""
    return [f"! {backend['name']}: {backend['detail']}" for backend in backends if is_troubled(backend)]


def is_troubled(backend: Mapping[str, Any]) -> bool:
    """Whether a server failed, runs and does not answer as it should, or was restarted and has a reason: one that ends at
    once may be seen between restarts."""
    return bool(backend["detail"]) and (
        backend["state"] in (*TROUBLED, "running", "remote") or backend["restarts"] > 0
    )


class Group(TyperGroup):
    """Runs a command; failures end with one message and exit code 1."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        lighten(self, ctx)
        return super().parse_args(ctx, args)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return lighten(super().get_command(ctx, cmd_name), ctx)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (Failure, Refused, Unreachable) as error:
            say(f"Error: {error}")
        except OSError as error:
            if error.errno is None or error.errno == errno.EPIPE:  # click ends quietly when the reader has left
                raise
            say(f"Error: {in_words(error)}")
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        raise typer.Exit(1)
