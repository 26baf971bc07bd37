"""Commands that add servers of the catalog to the file, and remove servers."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import names, offline
from gateway.cli.client import url
from gateway.cli.failure import Failure
from gateway.cli.locate import Place
from gateway.cli.options import (
    DryRunOption,
    FileOption,
    JsonOption,
    ProjectOption,
    ServerArgument,
    YesOption,
    confirmed,
    place,
    say,
    screen,
)
from gateway.cli.policy import yaml_text
from gateway.cli.terminal import Cell, clean

if TYPE_CHECKING:
    from registry.catalog import CatalogServer, Overrides


def register(app: typer.Typer) -> None:
    app.command()(search)
    app.command()(info)
    app.command()(run)
    app.command(name="rm")(remove)


def search(
    words: Annotated[
        list[str] | None, typer.Argument(help="Search text (default: list all).", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Search the catalog of well-known servers."""
    from gateway.control.catalog import summary
    from registry import catalog

    found = catalog.search(" ".join(words or []))
    if as_json:
        screen.json([summary(server) for server in found])
        return
    screen.table(["name", "from", "description"], [[s.name, s.source, Cell(clean(s.description, 90))] for s in found])
    if not found:
        say("Nothing in the catalog matches. Any other package runs too: write it into the file, as `command: uvx`.")


def catalog_server(name: str) -> CatalogServer:
    """A server of the catalog. Raises Failure, naming the nearest."""
    from registry import catalog

    try:
        return catalog.info(name)
    except catalog.CatalogError as error:
        raise Failure(str(error.args[0])) from None


def info(
    name: Annotated[str, typer.Argument(help="A server in the catalog.", autocompletion=names.catalog)],
    as_json: JsonOption = False,
) -> None:
    """Show a catalog server: its tools, its hosts, what it needs."""
    from gateway.control.catalog import details
    from registry import catalog

    server = catalog_server(name)
    if as_json:
        screen.json(details(server))
        return
    screen.line(f"{server.title}: {server.description}", "bold")
    screen.line(server.homepage)
    for host in server.network.allowed_hosts:
        screen.line(f"reaches {host.host}: {host.reason}")
    if server.network_note:
        screen.line(server.network_note)
    screen.table(["tool", "description"], [[tool.name, tool.description] for tool in server.tools])
    screen.line("What `stockade run` writes:")
    screen.block(yaml_text({"mcpServers": {server.name: catalog.entry(name)}}))
    _needs(name, catalog.Overrides())


def _needs(name: str, overrides: Overrides) -> None:
    """What the person must still provide, and how."""
    from registry import catalog

    for need in catalog.needs(name, overrides):
        what = "a host" if need.kind == "host" else f"{need.kind} {need.name}"
        say(f"Needs {what}: {need.description} {need.hint}")


def run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A server in the catalog.", autocompletion=names.catalog)],
    allow_host: Annotated[list[str] | None, typer.Option(help="Also allow this host (repeatable).")] = None,
    allow_port: Annotated[
        list[str] | None, typer.Option(help="Allow this port instead of the default ones (repeatable).")
    ] = None,
    no_isolate: Annotated[
        bool, typer.Option("--no-isolate", help="Give it an ordinary network: nothing is blocked.")
    ] = False,
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", help="Set a variable: NAME=VALUE (repeatable).")
    ] = None,
    mount: Annotated[
        list[str] | None, typer.Option(help="Mount a folder or file: SOURCE:TARGET[:ro] (repeatable).")
    ] = None,
    arg: Annotated[list[str] | None, typer.Option(help="Add an argument for the server (repeatable).")] = None,
    called: Annotated[
        str | None, typer.Option("--name", help="Name it this in the file.", show_default=False)
    ] = None,
    start: Annotated[bool, typer.Option(help="Start the gateway if none is running.")] = True,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    file: FileOption = None,
    project: ProjectOption = None,
) -> None:
    """Add a server from the catalog, and start it.

    It gets the policy that it comes with: the least that it works with.
    """
    from registry import catalog
    from registry.model.plain_secrets import covered

    where = place(context, file, project)
    catalog_server(name)
    overrides = catalog.Overrides(
        allow_hosts=allow_host or (),
        allow_ports=[int(port) if port.isdigit() else port for port in allow_port or ()],
        isolated=not no_isolate,
        env=_pairs(env or []),
        mounts=mount or (),
        args=arg or (),
    )
    overrides = _complete(name, overrides, dry_run=dry_run, yes=yes)
    entry = catalog.entry(name, overrides)
    screen.block(yaml_text({called or name: covered(entry)}))
    _remark(called or name, entry)
    _needs(name, overrides)
    if not dry_run and not confirmed(f"Add {called or name} with these settings?", yes):
        raise Failure("Nothing was changed.")
    add(where, called or name, entry, dry_run=dry_run, start=start)


def _complete(name: str, overrides: Overrides, *, dry_run: bool, yes: bool) -> Overrides:
    """With the folders and variables that the server cannot work without: asked for on a terminal, else a Failure."""
    from registry import catalog

    missing = [need for need in catalog.needs(name, overrides) if need.kind in ("mount", "env")]
    if dry_run or not missing:
        return overrides
    if yes or not sys.stdin.isatty():
        lines = [f"{name} cannot work without {need.kind} {need.name}: {need.description}" for need in missing]
        raise Failure("\n".join([*lines, f"Add {' '.join(need.hint.partition(' (')[0] for need in missing)}"]))
    mounts, env = list(overrides.mounts), dict(overrides.env or {})
    for need in missing:
        what = f"Folder for {need.name}" if need.kind == "mount" else need.name
        given = typer.prompt(f"{what} ({need.description.rstrip('.')})")
        if need.kind == "mount":
            mounts.append(f"{given}:{need.name}")
        else:
            env[need.name] = given
    return dataclasses.replace(overrides, mounts=mounts, env=env)


def _pairs(items: list[str]) -> dict[str, str]:
    """NAME=VALUE items as a mapping. Raises Failure."""
    pairs = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise Failure(f"{item!r} is not NAME=VALUE.")
        pairs[key] = value
    return pairs


def _remark(name: str, entry: Mapping[str, Any]) -> None:
    network = entry.get("network") or {}
    if not network.get("isolated", True):
        say("Not isolated: it can reach everything that this machine can, and its connections are not observed.")
    elif not network.get("allowed_hosts"):
        say(
            f"It may reach nothing outside. Allow hosts with --allow-host, or later: stockade egress allow {name} HOST"
        )


def add(where: Place, name: str, entry: Mapping[str, Any], *, dry_run: bool, start: bool) -> None:
    """Write a server into the file. A running gateway starts it; otherwise one is started (with `start`)."""

    def in_file() -> Any:
        from registry.edit import add_server

        return add_server(name, entry)

    body = {"name": name, "entry": dict(entry), "dry_run": dry_run}
    if offline.change(where, lambda api: api.post(url("backends"), body), in_file, dry_run=dry_run):
        screen.line(f"{name} is starting; see: stockade ps")
    elif not dry_run and start and not where.running():
        from gateway.cli.detached import up_detached

        up_detached(where, 900)


def remove(
    context: typer.Context,
    name: ServerArgument,
    dry_run: DryRunOption = False,
    file: FileOption = None,
    project: ProjectOption = None,
) -> None:
    """Remove a server from the file and stop it."""

    def in_file() -> Any:
        from registry.edit import remove_server

        return remove_server(name)

    where = place(context, file, project)
    target = url("backends", name, dry_run=dry_run)
    if offline.change(where, lambda api: api.delete(target), in_file, dry_run=dry_run):
        screen.line(f"{name} was stopped and removed.")
